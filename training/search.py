"""The search for a network: candidates trained for the same CPU time, and the table of what each reached.

Resumable: every candidate is a run of `training.fit` in a folder of its own. Its result is a small file that is committed, so the
search can grow over days and machines; CPU minutes of different machines do not compare, so steps are stated beside them.
A result counts only for the settings that it was made with, of which it keeps a fingerprint.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from protocols.errors import BadInputError, ConfigurationError
from training.architecture import on_grid
from training.bounds import largest_on_patterns
from training.cost import network_cost
from training.fit import Fitting, Log, TrainingDivergedError
from training.images import Series
from training.quality import measure_quality
from training.settings import Settings, read_toml, settings_from
from training.timing import timed

SIGMAS: Final = (15.0, 25.0, 50.0)
SEED: Final = 7  # of measurement noise
METHOD: Final = 2  # counts changes to how training/ fits or measures that no setting shows; 1 was AdamW for all weights


@dataclass(frozen=True)
class Candidate:
    """One network of the search, with all settings of its run but the number of steps."""

    name: str
    settings: Settings

    @property
    def fingerprint(self) -> str:
        """Of all that a result depends on, but the images and the machine. The name is not in it, nor the wall time allowed."""
        settings = replace(self.settings, fit=replace(self.settings.fit, minutes=0.0))
        return hashlib.sha256(repr((METHOD, SIGMAS, SEED, settings)).encode()).hexdigest()

    def run_folder(self, runs: Path) -> Path:
        """Where it is trained: a run that was cut under other settings is neither gone on with nor in the way."""
        return runs / self.name / self.fingerprint[:12]


@dataclass(frozen=True)
class Result:
    """What one candidate reached. psnr_db: at each of SIGMAS, the validation mean; empty where training diverged."""

    name: str
    fingerprint: str  # of the candidate, as it was trained
    wires_per_pixel: float
    macs_per_pixel: float
    rounds: int
    parameters: int
    steps: int
    cpu_seconds: float
    skipped: int
    restores: int
    psnr_db: tuple[float, ...]
    largest_wire: float


def load_search(path: Path) -> tuple[float, list[Candidate]]:
    """CPU minutes of each candidate, and the candidates of a search file.

    The file holds the common sections of a training configuration, and a table [candidates.NAME] for each with the entries of
    [network]. Raises ConfigurationError.
    """
    content = read_toml(path)
    tables = content.pop("candidates", None)
    if not isinstance(tables, dict) or not tables:
        raise ConfigurationError(f"{path}: no [candidates.NAME] table; there is nothing to search")
    candidates = [Candidate(name, settings_from(path, content | {"network": table})) for name, table in tables.items()]
    fit = candidates[0].settings.fit
    if fit.steps or not fit.cpu_minutes:
        raise ConfigurationError(f"{path}: [fit] of a search states steps = 0 and cpu_minutes, so that all get the same time")
    return fit.cpu_minutes, candidates


def run_candidate(candidate: Candidate, training: list[Series], validation: list[Series], folder: Path, log: Log) -> Result:
    """Train a candidate for its time and measure it. Raises BadInputError, ConfigurationError."""
    settings = timed(candidate.settings, training, validation, folder)
    fit = replace(settings.fit, validate_every=settings.fit.steps, minutes=float("inf"))
    settings = replace(settings, fit=fit)
    fitting = Fitting(settings, training, validation, folder, log)
    network = fitting.network
    psnr: tuple[float, ...] = ()
    largest = float("inf")
    try:
        fitting.run()
    except TrainingDivergedError as error:
        log({"event": "diverged", "candidate": candidate.name, "message": str(error)})
    else:
        weights = on_grid(network, fitting.state.best)
        chosen = settings.validation
        psnr = tuple(
            measure_quality(network, weights, validation, sigma, slices=chosen.slices, seed=SEED, ssim=False).psnr_out_db
            for sigma in SIGMAS
        )
        largest = largest_on_patterns(network, weights, seed=SEED)
    cost, state = network_cost(network), fitting.state
    return Result(
        candidate.name,
        candidate.fingerprint,
        cost.wires_per_pixel,
        cost.macs_per_pixel,
        cost.rounds,
        cost.parameters,
        state.step,
        state.cpu_seconds,
        state.skipped,
        state.restores,
        psnr,
        largest,
    )


def keep_result(folder: Path, result: Result) -> None:
    """Write a result to its file."""
    folder.mkdir(parents=True, exist_ok=True)
    _path(folder, result.name).write_text(json.dumps(asdict(result), indent=1) + "\n")


def kept_result(folder: Path, candidate: Candidate, tell: Callable[[str], Any]) -> Result | None:
    """The result of a candidate with these settings; where there is none, `tell` hears why. Raises BadInputError."""
    path = _path(folder, candidate.name)
    if not path.exists():
        tell(f"{candidate.name} has no result yet")
        return None
    try:
        content = json.loads(path.read_text())
        result = Result(**content | {"psnr_db": tuple(content["psnr_db"])})
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path} is no result of the search: {error}; remove it to train the candidate again") from error
    if result.fingerprint != candidate.fingerprint:
        tell(f"{candidate.name}: {path} is a result of other settings; it does not count, and must be trained again")
        return None
    return result


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def collect(candidates: Sequence[Candidate], folder: Path, tell: Callable[[str], Any]) -> list[Result]:
    """The results of all candidates that are finished; `tell` hears of the others. Raises BadInputError."""
    kept = [kept_result(folder, candidate, tell) for candidate in candidates]
    return [result for result in kept if result is not None]


def search_table(results: Sequence[Result], cpu_minutes: float) -> str:
    """Markdown, the best at the middle noise level first."""
    middle = len(SIGMAS) // 2
    ranked = sorted(results, key=lambda one: one.psnr_db[middle] if one.psnr_db else float("-inf"), reverse=True)
    levels = " | ".join(f"PSNR {sigma:g} (dB)" for sigma in SIGMAS)
    lines = [
        f"Each candidate: as many steps as a trial said would take {cpu_minutes:g} CPU minutes on one thread, and the "
        "seconds that it took. Means over validation/*. Wires and rounds are those of the dealing plan at 512x512; the largest "
        "wire is over the patterns of `training/hostile.py`, a part of what bounds try.",
        "",
        "| candidate | wires / pixel | MACs / pixel | rounds | weights | CPU s | steps "
        f"| {levels} | largest wire | skipped, restored |",
        "|---|---|---|---|---|---|---|" + "---|" * len(SIGMAS) + "---|---|",
    ]
    for one in ranked:
        psnr = " | ".join(f"{value:.2f}" for value in one.psnr_db) or " | ".join(["diverged"] * len(SIGMAS))
        cost = f"{one.wires_per_pixel:.1f} | {one.macs_per_pixel:,.0f} | {one.rounds} | {one.parameters:,}"
        reached = f"{one.cpu_seconds:.0f} | {one.steps:,} | {psnr} | {one.largest_wire:.1f} | {one.skipped}, {one.restores}"
        lines.append(f"| {one.name} | {cost} | {reached} |")
    return "\n".join(lines) + "\n"
