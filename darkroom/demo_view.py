"""What the demo shows of its two runs: the table, the panels of the picture, the report."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float64, Int64
from rich import box
from rich.table import Table
from torch import Tensor

from client.edge import Denoised
from client.origin import Origin
from client.records import ObjectRecord
from client.report import Exactness, Quality, build_report
from darkroom import __version__
from darkroom.picture import GreyScale, Panel, show_words
from protocols.fixed_point import encode_image
from protocols.identifiers import Role
from protocols.packing import pack
from protocols.unpicklable import Unpicklable


@dataclass(frozen=True, eq=False)
class Run(Unpicklable):
    """One mode's way through the servers. Sizes and costs are public, the images are not."""

    record: ObjectRecord = field(repr=False)
    denoised: Denoised
    stored_b: Int64[Tensor, "h w"] = field(repr=False)  # server B's file, as it was on its disk
    quality: Quality
    exactness: Exactness


def comparison_table(keyed: Run, blind: Run) -> Table:
    """Both runs side by side; ten lines with the header and its rule."""
    rows: list[tuple[str, Callable[[Run], str]]] = [
        ("PSNR, noisy → result", lambda run: f"{run.quality.psnr_in_db:.2f} → {run.quality.psnr_out_db:.2f} dB"),
        ("SSIM, noisy → result", lambda run: f"{run.quality.ssim_in:.3f} → {run.quality.ssim_out:.3f}"),
        ("largest difference from plaintext", lambda run: f"{run.exactness.max_abs_diff:.1e} of the range"),
        ("online", lambda run: f"{run.denoised.online_seconds:.2f} s"),
        ("dealing, before it", lambda run: f"{run.denoised.offline_seconds:.2f} s"),
        ("sent by A / by B", lambda run: " / ".join(_megabytes(run.denoised.costs[role].sent_bytes) for role in Role)),
        ("dealt to B", lambda run: _megabytes(run.denoised.costs[Role.B].dealt_bytes)),
        ("rounds", lambda run: str(max(cost.rounds for cost in run.denoised.costs.values()))),
    ]
    table = Table("", "keyed", "blind", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, value in rows:
        table.add_row(name, value(keyed), value(blind))
    return table


def panels(truth: Float64[Tensor, "h w"], noisy: Float64[Tensor, "h w"], keyed: Run, blind: Run) -> list[Panel]:
    """What each party sees. Truth, noisy image and results in one grey scale; words by their high byte."""
    scale = GreyScale.of(truth)
    record = keyed.record
    packed = pack(encode_image(noisy), record.keys, record.packing, record.packing_sigma)
    return [
        Panel("Truth", "known in this demo only", scale.show(truth)),
        Panel("Acquired", f"the hospital: {keyed.quality.psnr_in_db:.1f} dB", scale.show(noisy)),
        Panel("Packed (keyed)", "both stores stolen: uniform noise", show_words(packed)),
        Panel("Share of server B", "its file, as it lay on its disk", show_words(keyed.stored_b)),
        Panel("Result, keyed", f"the edge: {keyed.quality.psnr_out_db:.1f} dB", scale.show(keyed.denoised.pixels)),
        Panel("Result, blind", f"the edge: {blind.quality.psnr_out_db:.1f} dB", scale.show(blind.denoised.pixels)),
    ]


def demo_report(origin: Origin, keyed: Run, blind: Run) -> dict[str, Any]:
    """report.json: the keyed run, and the blind one beside it under "blind"."""
    reports = [
        build_report(run.denoised, origin, version=__version__, quality=run.quality, exactness=run.exactness)
        for run in (keyed, blind)
    ]
    return {**reports[0], "blind": reports[1]}


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
