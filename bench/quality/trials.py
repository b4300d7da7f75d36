"""The trials: every method on the same noisy slices.

Noise is seeded by level and drawn per slice, so a method added later meets the images of the others.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bench.quality.metrics import Merit, Plane, mean_merit, merit
from bench.quality.peers import Denoise
from training.images import Series, spread_slices

SIGMAS: Final = (5.0, 15.0, 25.0, 50.0)  # in 1/255 of the range
NOISY: Final = "noisy input"


@dataclass(frozen=True, eq=False)
class Subject:
    """One slice with noise of a known level."""

    series: str
    number: int
    sigma: float  # in 1/255 of the range
    truth: Plane = field(repr=False)
    noisy: Plane = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """One method on one subject."""

    method: str
    series: str
    number: int
    sigma: float
    merit: Merit
    seconds: float  # of CPU time


def subjects(series: Sequence[Series], slices: int, seed: int, sigmas: Sequence[float] = SIGMAS) -> list[Subject]:
    """`slices` slices of each series at each level."""
    out = []
    for sigma in sigmas:
        rng = np.random.default_rng((seed, round(sigma * 1000)))
        for one in series:
            for number, plane in enumerate(spread_slices(one, slices)):
                truth = one.normalised(plane)
                noisy = truth + np.float32(sigma / 255) * rng.standard_normal(truth.shape, dtype=np.float32)
                out.append(Subject(one.name, number, sigma, truth, noisy))
    return out


def run_trials(methods: Mapping[str, Denoise], chosen: Sequence[Subject], tell: Callable[[str], None]) -> list[Trial]:
    """Every method on every subject, the noisy input first."""
    trials = []
    for index, subject in enumerate(chosen, start=1):
        trials.append(Trial(NOISY, subject.series, subject.number, subject.sigma, merit(subject.noisy, subject.truth), 0.0))
        for name, denoise in methods.items():
            started = time.process_time()
            result = denoise(subject.noisy, subject.sigma / 255)
            seconds = time.process_time() - started
            trials.append(Trial(name, subject.series, subject.number, subject.sigma, merit(result, subject.truth), seconds))
        tell(f"{index}/{len(chosen)}: {subject.series}, slice {subject.number}, sigma {subject.sigma:g}")
    return trials


def means(trials: Sequence[Trial]) -> dict[str, dict[float, Merit]]:
    """The mean over slices of each method at each level, in the order of the trials."""
    groups: dict[str, dict[float, list[Merit]]] = {}
    for trial in trials:
        groups.setdefault(trial.method, {}).setdefault(trial.sigma, []).append(trial.merit)
    return {method: {sigma: mean_merit(merits) for sigma, merits in levels.items()} for method, levels in groups.items()}


def worst(trials: Sequence[Trial], method: str, peer: str) -> tuple[Trial, float] | None:
    """The trial in which a method is furthest behind a peer, or least ahead of it, and that difference in dB."""
    places = {(one.series, one.number, one.sigma): one for one in trials if one.method == peer}
    pairs = [(one, places.get((one.series, one.number, one.sigma))) for one in trials if one.method == method]
    differences = [(one, one.merit.psnr_db - other.merit.psnr_db) for one, other in pairs if other is not None]
    return min(differences, key=lambda pair: pair[1], default=None)
