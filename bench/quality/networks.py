"""The networks that are judged: model files, with what each costs on shares."""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch

from bench.quality.peers import Denoise, Plane
from bench.workload import phantom
from client import acquisition, edge
from client.config import HospitalConfig, load_config
from client.model_file import Model, load_model
from client.model_owner import push_model
from client.origin import IDENTITY, Kind, Origin, SourceImage
from client.report import float_estimate
from darkroom.simulation import simulation
from training.cost import Cost, network_cost
from training.quality import denoise

LEVEL: Final = 25.0  # of the phantom that is timed, in 1/255


@dataclass(frozen=True, eq=False)
class Judged:
    """A network under its file's name."""

    model: Model = field(repr=False)
    cost: Cost

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def denoise(self) -> Denoise:
        def run(noisy: Plane, sigma: float) -> Plane:
            return denoise(self.model.network, self.model.weights, noisy, 255.0 * sigma)

        return run


@dataclass(frozen=True)
class Timing:
    """Medians over evaluations of one phantom by live servers. largest_difference: from the same network in float64."""

    side: int
    repetitions: int
    online_seconds: float
    offline_seconds: float
    sent_bytes: int
    largest_difference: float


def load_judged(paths: Sequence[Path]) -> list[Judged]:
    """Read the model files. Raises BadInputError, NetworkDescriptionError."""
    models = [load_model(path) for path in paths]
    return [Judged(model, network_cost(model.network)) for model in models]


def time_on_own_site(judged: Sequence[Judged], side: int, repetitions: int, tell: Callable[[str], None]) -> dict[str, Timing]:
    """As `time_on_shares`, with servers and a dealer of its own on this machine. Raises DarkroomError."""
    with (
        tempfile.TemporaryDirectory(prefix="darkroom-quality-") as folder,
        simulation(Path(folder) / "site", tell=tell) as running,
    ):
        return time_on_shares(load_config(running.hospital_file), judged, side, repetitions, tell)


def time_on_shares(
    config: HospitalConfig, judged: Sequence[Judged], side: int, repetitions: int, tell: Callable[[str], None]
) -> dict[str, Timing]:
    """Denoise a phantom with each network on live servers, in turn; a warm-up goes before. Raises DarkroomError.

    config: of one who may push models and denoise, as the hospital of a simulation may.
    """
    pixels = torch.from_numpy(phantom(side, LEVEL).astype(np.float64))
    origin = Origin(kind=Kind.NPY, normalisation=IDENTITY, bits=64, name="phantom.npy", dataset=None)
    results: dict[str, list[edge.Denoised]] = {one.name: [] for one in judged}
    for one in judged:
        push_model(config, one.model)
    record = acquisition.store(config, SourceImage(pixels, origin), sigma=LEVEL / 255)
    for repetition in range(repetitions + 1):
        for one in judged:
            result = edge.denoise(config, record.object_id, model=one.name)
            tell(f"{one.name}, {side}x{side} on shares: {result.online_seconds:.2f} s online")
            if repetition:
                results[one.name].append(result)
    acquisition.delete(config, record.object_id)
    return {one.name: _timing(side, results[one.name], float_estimate(one.model, pixels, LEVEL / 255)) for one in judged}


def _timing(side: int, results: Sequence[edge.Denoised], reference: torch.Tensor) -> Timing:
    return Timing(
        side,
        len(results),
        statistics.median(one.online_seconds for one in results),
        statistics.median(one.offline_seconds for one in results),
        max(cost.sent_bytes for one in results for cost in one.costs.values()),
        max(float((one.pixels - reference).abs().max()) for one in results),
    )
