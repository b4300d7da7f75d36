"""Recorded parties as a running site: start them, push a small model, run sessions, and read who saw what."""

import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float64
from skimage.data import shepp_logan_phantom
from skimage.transform import resize
from torch import Tensor

from client import acquisition, edge
from client.config import HospitalConfig, load_config
from client.edge import Denoised
from client.model_file import Model
from client.model_owner import push_model
from client.origin import IDENTITY, Kind, Origin, SourceImage
from client.records import ObjectRecord
from darkroom.simulation import Simulation, simulation
from protocols.engines import MASKED
from protocols.layers import Add, Concat, Conv, Gate, PixelShuffle, PixelUnshuffle, Relu, SigmaMap
from protocols.network import Network
from security.evaluation import Tell
from security.recording import Entry, read_entries
from security.stage import Stage

PARTIES: Final = ("server-a", "server-b", "dealer")
MODULES: Final = {
    "server-a": "security.recorded_server_a",
    "server-b": "security.recorded_server_b",
    "dealer": "security.recorded_dealer",
}
SIGMA: Final = 0.1

View = Mapping[str, list[Entry]]  # by party


@dataclass
class Site:
    """A running simulation whose parties record."""

    simulation: Simulation
    stage: Stage
    config: HospitalConfig
    model: Model
    engine: str = MASKED

    def positions(self) -> dict[str, int]:
        """Where the recordings end now."""
        paths = {party: self.stage.folder / f"{party}.rec" for party in PARTIES}
        return {party: path.stat().st_size if path.exists() else 0 for party, path in paths.items()}

    def since(self, positions: Mapping[str, int]) -> dict[str, list[Entry]]:
        """What every party has recorded since then."""
        return {party: read_entries(self.stage.folder / f"{party}.rec", positions[party])[0] for party in PARTIES}

    def store(self, pixels: Float64[Tensor, "h w"]) -> ObjectRecord:
        """Store an image, as the client does."""
        return acquisition.store(self.config, source(pixels), sigma=SIGMA)

    def denoise(self, record: ObjectRecord) -> Denoised:
        """Open a window, as the edge does."""
        return edge.denoise(self.config, record.object_id, model=self.model.name, engine=self.engine)

    def session(self, pixels: Float64[Tensor, "h w"]) -> dict[str, list[Entry]]:
        """Store, denoise, delete; what every party saw of it."""
        start = self.positions()
        record = self.store(pixels)
        self.denoise(record)
        acquisition.delete(self.config, record.object_id)
        return self.since(start)


def source(pixels: Float64[Tensor, "h w"]) -> SourceImage:
    """An image as an .npy would give it."""
    return SourceImage(pixels, Origin(kind=Kind.NPY, normalisation=IDENTITY, bits=64, name="image.npy", dataset=None))


@contextmanager
def live_site(stage: Stage, model: Model, *, tell: Tell, engine: str = MASKED) -> Generator[Site]:
    """Start recorded parties and push the model; everything is gone at the end of the block, except the recordings."""
    with tempfile.TemporaryDirectory() as folder, stage.set_for_children():
        with simulation(Path(folder) / "site", tell=lambda _: None, modules=MODULES) as running:
            config = load_config(running.hospital_file)
            push_model(config, model)
            tell(f"live parties, {engine} engine, {stage.fault.value}: ready")
            yield Site(running, stage, config, model, engine)


def flat_image(side: int) -> Float64[Tensor, "h w"]:
    """One grey everywhere."""
    return torch.full((side, side), 0.5, dtype=torch.float64)


def phantom_image(side: int) -> Float64[Tensor, "h w"]:
    """The head phantom of L. A. Shepp and B. F. Logan (IEEE Transactions on Nuclear Science 21 (1974), 21-43)."""
    return torch.from_numpy(resize(shepp_logan_phantom(), (side, side), anti_aliasing=True)).double()


def small_model(seed: int = 5) -> Model:
    """A small gated network with a ReLU, on which an engine makes every kind of opening that it has; no weight is zero."""
    network = Network(
        (
            PixelUnshuffle("half", "image", 2),
            SigmaMap("sigma", "half"),
            Concat("in", "half", "sigma"),
            Conv("first", "in", 8, 3, padding=1),
            Gate("gate", "first"),
            Relu("positive", "gate"),
            Conv("last", "positive", 4, 3, padding=1),
            Add("sum", "last", "half"),
            PixelShuffle("out", "sum", 2),
        ),
        multiple=2,
        weight_frac_bits=12,
    )
    generator = torch.Generator().manual_seed(seed)
    weights = {name: 0.01 * torch.randn(shape, generator=generator) for name, shape in network.parameter_shapes().items()}
    weights["first.bias"][4:] += 1.0  # the gate's second factor
    for channel in range(4):
        weights["first.weight"][channel, channel, 1, 1] += 1.0
        weights["last.weight"][channel, :, 1, 1] += 0.25
        weights["last.weight"][channel, channel, 1, 1] -= 1.0
    return Model("small", network, weights, bound=8.0)
