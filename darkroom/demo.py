"""`darkroom demo`: one real image through the whole path, with the truth at hand to measure against.

Client, edge and servers are separate identities and processes, as they would be on separate machines; here all run on this one.
The acquisition noise is added, so that its level and the clean image are known.
"""

import contextlib
import math
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Final

from jaxtyping import Float64, Int64
from rich.console import Console
from torch import Tensor

from client import acquisition, edge
from client.acquisition import DEFAULT_PACKING_SIGMA, SIGMA_LIMIT
from client.config import load_config
from client.files import read_file
from client.images import read_image, write_result
from client.model_file import Model, load_model
from client.origin import Kind, SourceImage
from client.records import ObjectRecord
from client.report import float_estimate, measure_exactness, measure_quality, write_report
from darkroom.commands import push_models
from darkroom.demo_view import Run, comparison_table, demo_report, panels
from darkroom.output import Stages, err, result_line, result_table, write_json
from darkroom.picture import write_picture
from darkroom.planes import deleting
from darkroom.sample import sample_image
from darkroom.simulation import Simulation, find_model, simulation
from protocols import ring
from protocols.errors import BadInputError, ConfigurationError
from protocols.fixed_point import decode
from protocols.gaussian import gaussian_noise
from protocols.identifiers import Role
from protocols.packing import PackingMode
from protocols.prg import Prg, fresh_key

MAX_SIGMA: Final = 54.0 / 255.0  # leaves room for blind packing noise below the 55/255 that models are trained for
PICTURE: Final = "darkroom.png"
REPORT: Final = "report.json"
STOLEN: Final = {
    PackingMode.KEYED: "with both stores would have uniform noise; with one, too",
    PackingMode.BLIND: "with both stores would have the image under noise of {sigma:.3g}/255; with one, uniform noise",
}


def run_demo(*, image: Path | None, sigma: float, folder: Path, model: str, site: Path | None, json_path: str | None) -> None:
    """Run the demo and write picture, image and report into `folder`. sigma: unit of the normalised range.

    site: where keys, stores and logs are kept; a temporary folder where it is None. Raises DarkroomError.
    """
    if sigma > MAX_SIGMA:
        raise BadInputError(
            f"the demo takes --sigma up to {MAX_SIGMA * 255:.0f}: models are trained up to 55, packing noise included"
        )
    model_file = find_model(model)
    weights = load_model(model_file)
    source = read_image(sample_image() if image is None else image)
    noisy = replace(source, pixels=with_noise(source.pixels, sigma))
    _make_folder(folder)
    console = err()
    stages = Stages(console)
    stages.tell("hospital", f"has {source.height}x{source.width} pixels, and adds noise of {sigma * 255:.3g}/255 to them")
    with _site(site) as root:
        with simulation(root, tell=lambda line: stages.tell("simulation", line)) as running:
            push_models(running, [model_file])
            keyed = _run(running, source, noisy, sigma, weights, PackingMode.KEYED, console)
            blind = _run(running, source, noisy, sigma, weights, PackingMode.BLIND, console)
        stages.tell("simulation", "every process is stopped")
    result = folder / ("denoised.dcm" if source.kind is Kind.DICOM else "denoised.npy")
    write_result(result, keyed.denoised.pixels, source.origin, keyed.denoised.provenance)
    write_picture(folder / PICTURE, panels(source.pixels, noisy.pixels, keyed, blind))
    report = demo_report(source.origin, keyed, blind)
    write_report(folder / REPORT, report)
    result_table(comparison_table(keyed, blind), json_path)
    result_line(f"\nThe picture, the image and the report are in {folder}: {PICTURE}, {result.name}, {REPORT}", json_path)
    write_json(report, json_path)


def with_noise(pixels: Float64[Tensor, "h w"], sigma: float) -> Float64[Tensor, "h w"]:
    """Add white Gaussian noise from the operating system's randomness; not clipped. sigma: unit of the pixels."""
    if sigma == 0.0:
        return pixels
    return pixels + decode(gaussian_noise(Prg(fresh_key()), 0, 0, tuple(pixels.shape), sigma))


def _run(
    running: Simulation, source: SourceImage, noisy: SourceImage, sigma: float, model: Model, mode: PackingMode, console: Console
) -> Run:
    """Store under the client's identity, open under the edge's, delete; then measure."""
    client, viewer = load_config(running.client_file), load_config(running.edge_file)
    packing_sigma = blind_packing_sigma(sigma) if mode is PackingMode.BLIND else None
    console.print(f"[bold]{mode.value} packing[/bold]")
    with Stages(console) as stages:
        record = acquisition.store(client, noisy, packing=mode, packing_sigma=packing_sigma, sigma=sigma, progress=stages)
        with deleting(client, record, stages):
            stages.tell("a thief", STOLEN[mode].format(sigma=record.packing_sigma * 255))
            stored_b = _stored_words(running, record)
            denoised = edge.denoise(viewer, record.object_id, model=model.name, progress=stages)
            sent, dealt = denoised.costs[Role.A].sent_bytes, denoised.costs[Role.B].dealt_bytes
            stages.tell("servers", f"each saw {sent / 1e6:.0f} MB of masked, uniform words from the other, and no pixel")
            stages.tell("dealer", f"saw no share; dealt {dealt / 1e6:.0f} MB of correlated random numbers")
    ran_on = noisy.pixels if denoised.blind is None else denoised.blind.packed
    reference = float_estimate(model, ran_on, denoised.sigma)
    return Run(
        record,
        denoised,
        stored_b,
        measure_quality(source.pixels, noisy.pixels, denoised.pixels),
        measure_exactness(denoised, reference, truth=source.pixels),
    )


def blind_packing_sigma(sigma: float) -> float:
    """The usual packing noise, or what acquisition noise leaves of the level that models are trained for."""
    room = math.sqrt(max(0.0, SIGMA_LIMIT**2 - sigma**2))
    return min(DEFAULT_PACKING_SIGMA, 0.999 * room)  # rounding must not lift the sum above the limit


def _stored_words(running: Simulation, record: ObjectRecord) -> Int64[Tensor, "h w"]:
    """Server B's share as it lies on B's disk: the words are the end of the object's file."""
    path = running.site.folder("server-b") / "b.store" / "objects" / f"{record.object_id}.share"
    content = read_file(path, "server B's share")
    count = record.height * record.width * ring.WORD_BYTES
    return ring.from_bytes(content[-count:], (record.height, record.width))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {folder} cannot be made: {error.strerror or error}") from error


@contextlib.contextmanager
def _site(folder: Path | None) -> Generator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="darkroom-demo-") as name:
        yield Path(name)
