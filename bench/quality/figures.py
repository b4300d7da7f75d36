"""The pictures of the quality report."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bench.quality.agreement import correlation, error_shares, regression
from bench.quality.metrics import Merit
from bench.quality.networks import Judged
from bench.quality.peers import Denoise, Plane
from bench.quality.trials import NOISY, Subject
from darkroom.chart import Line, write_chart
from darkroom.picture import GreyScale, Panel, write_picture
from protocols.errors import BadInputError
from training.quality import psnr_db

CROP: Final = 128
DIFFERENCE_GAIN: Final = 5.0  # differences are shown so much stronger, about mid-grey
DOTS: Final = 3000  # pixels in a scatter plot: more would be a blot
SEED: Final = 7
MIDDLE: Final = 25.0  # the level that charts show, in 1/255


def crops(path: Path, subject: Subject, methods: Mapping[str, Denoise]) -> Path:
    """The middle of a slice: truth, input, each method, and under each its difference from the truth."""
    scale = GreyScale.of(torch.from_numpy(subject.truth).double())
    where = _busiest(subject.truth)
    panels = [
        Panel("Truth", subject.series, scale.show(_tensor(subject.truth[where]))),
        Panel("Noisy", f"{psnr_db(subject.noisy, subject.truth):.2f} dB", scale.show(_tensor(subject.noisy[where]))),
    ]
    shown, differences = [], []
    for name, denoise in methods.items():
        result = denoise(subject.noisy, subject.sigma / 255)
        shown.append(Panel(name, f"{psnr_db(result, subject.truth):.2f} dB", scale.show(_tensor(result[where]))))
        differences.append(_difference(f"{name} - truth", result[where], subject.truth[where]))
    write_picture(path, [*panels, *shown, *differences])
    return path


def worst_case(path: Path, subject: Subject, ours: tuple[str, Denoise], peer: tuple[str, Denoise]) -> Path:
    """A slice where ours loses the most, cropped to where it does: above truth, ours and the peer, below input and differences.

    ours, peer: a name and a method each.
    """
    scale = GreyScale.of(torch.from_numpy(subject.truth).double())
    results = {name: denoise(subject.noisy, subject.sigma / 255) for name, denoise in (ours, peer)}
    lost = (results[ours[0]] - subject.truth) ** 2 - (results[peer[0]] - subject.truth) ** 2
    where = _square(subject.truth.shape, lambda square: float(lost[square].sum()))
    above = [Panel("Truth", f"{subject.series}, sigma {subject.sigma:g}", scale.show(_tensor(subject.truth[where])))]
    below = [Panel("Noisy", f"{psnr_db(subject.noisy, subject.truth):.2f} dB", scale.show(_tensor(subject.noisy[where])))]
    for name, result in results.items():
        above.append(Panel(name, f"{psnr_db(result, subject.truth):.2f} dB", scale.show(_tensor(result[where]))))
        below.append(_difference(f"{name} - truth", result[where], subject.truth[where]))
    write_picture(path, [*above, *below])
    return path


def real_crops(path: Path, pairs: Sequence[tuple[str, Plane, Plane]]) -> Path:
    """Slices as they are: before, after, and what was taken away."""
    panels = []
    for name, before, after in pairs:
        scale = GreyScale.of(torch.from_numpy(before).double())
        where = _busiest(before)
        panels += [
            Panel(name, "as acquired", scale.show(_tensor(before[where]))),
            Panel("denoised", "no truth is known", scale.show(_tensor(after[where]))),
            _difference("removed", before[where], after[where]),
        ]
    write_picture(path, panels)
    return path


def psnr_against_wires(
    path: Path, judged: Sequence[Judged], means: Mapping[str, Mapping[float, Merit]], flat: Sequence[str]
) -> Path:
    """PSNR at the middle level over wires per pixel; methods in clear have none and are drawn as levels."""
    wires = [one.cost.wires_per_pixel for one in judged]
    lines = [Line(one.name, [(one.cost.wires_per_pixel, means[one.name][MIDDLE].psnr_db)], marks=True) for one in judged]
    ends = (0.4 * min(wires), 2.5 * max(wires))  # wide enough for two ticks
    lines += [Line(name, [(x, means[name][MIDDLE].psnr_db) for x in ends], dashed=True) for name in flat if name != NOISY]
    return write_chart(path, f"Quality and cost, sigma {MIDDLE:g}", "wires per pixel", "PSNR, dB", lines)


def training_curve(path: Path, logs: Mapping[str, Path]) -> Path:
    """Validation PSNR over CPU minutes, from the logs of runs. Raises BadInputError: a log without a validation."""
    lines = []
    for name, log in logs.items():
        points = validations(log)
        if not points:
            raise BadInputError(f"{log} holds no validation yet; train longer, or leave --log {name} out")
        lines.append(Line(name, points))
    return write_chart(path, "Training", "CPU minutes", "validation PSNR, dB", lines, logarithmic=False)


def validations(log: Path) -> list[tuple[float, float]]:
    """CPU minutes and PSNR in dB of each validation of a run, which may be going on, or was cut: half a line is not read."""
    points: list[tuple[float, float]] = []
    seconds = 0.0
    for line in log.read_text().splitlines(keepends=True):
        entry = _entry(line)
        if entry["event"] == "step":
            seconds = entry["cpu_seconds"]
        elif entry["event"] == "validation":
            points.append((seconds / 60, entry["psnr_out_db"]))
    return points


def _entry(line: str) -> dict[str, Any]:
    """A line of a log. Where a run was cut, the next one's first line goes on in the middle of it: both are lost."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return {"event": "unfinished"}
    return entry


def agreement(folder: Path, subject: Subject, name: str, denoise: Denoise) -> tuple[dict[str, Path], str]:
    """Output against truth, its error histogram, and output against input; and the figures in one sentence."""
    result = denoise(subject.noisy, subject.sigma / 255)
    slope, intercept = regression(result, subject.truth)
    chosen = np.random.default_rng(SEED).choice(result.size, min(DOTS, result.size), replace=False)

    def dots(plane: Plane) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in zip(plane.ravel()[chosen], result.ravel()[chosen], strict=True)]

    line = Line(f"{slope:.3f} truth {intercept:+.4f}", [(x, intercept + slope * x) for x in (0.0, 1.0)])
    edges = np.linspace(-0.15, 0.15, 61)
    middles = 0.5 * (edges[1:] + edges[:-1])
    histograms = [
        Line(
            kind,
            [(float(x), 100.0 * y) for x, y in zip(middles, error_shares(plane, subject.truth, edges.tolist()), strict=True)],
        )
        for kind, plane in ((name, result), (NOISY, subject.noisy))
    ]
    title = f"{name}, {subject.series}, sigma {subject.sigma:g}"
    pictures = {
        "regression": write_chart(
            folder / "regression.png", title, "truth", "output", [Line("pixels", dots(subject.truth), marks=True), line],
            logarithmic=False, mark_size=1,
        ),
        "errors": write_chart(folder / "errors.png", title, "error", "% of pixels", histograms, logarithmic=False, mark_size=1),
        "input_output": write_chart(
            folder / "input-output.png", title, "noisy input", "output", [Line("pixels", dots(subject.noisy), marks=True)],
            logarithmic=False, mark_size=1,
        ),
    }  # fmt: skip
    sentence = (
        f"Correlation of output and truth {correlation(result, subject.truth):.4f}, of output and input "
        f"{correlation(result, subject.noisy):.4f}, of input and truth {correlation(subject.noisy, subject.truth):.4f}; "
        f"regression of output on truth: slope {slope:.4f}, intercept {intercept:+.5f}."
    )
    return pictures, sentence


def _difference(title: str, image: Plane, other: Plane) -> Panel:
    """One crop minus another, about mid-grey."""
    grey = 0.5 + DIFFERENCE_GAIN * (image - other)
    return Panel(title, f"times {DIFFERENCE_GAIN:g}", np.rint(np.clip(grey, 0.0, 1.0) * 255).astype(np.uint8))


def _busiest(image: Plane) -> tuple[slice, slice]:
    """The square of CROP pixels in which most happens."""
    return _square(image.shape, lambda square: float(image[square].std()))


def _square(shape: tuple[int, ...], score: Callable[[tuple[slice, slice]], float]) -> tuple[slice, slice]:
    """The square of CROP pixels, on a coarse grid, with the highest score."""
    height, width = shape
    side = min(CROP, height, width)
    squares = [
        np.s_[row : row + side, column : column + side]
        for row in range(0, height - side + 1, max(1, side // 4))
        for column in range(0, width - side + 1, max(1, side // 4))
    ]
    return max(squares, key=score)


def _tensor(plane: Plane) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(plane)).double()
