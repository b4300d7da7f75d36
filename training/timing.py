"""Training for a given CPU time: how many steps fit is measured once, and kept beside the checkpoint.

The learning rate falls over a known number of steps, so the number must be known before the first. Kept, it makes a run that is
cut and resumed the run that was not cut.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from protocols.errors import BadInputError, ConfigurationError
from training.device import CPU
from training.fit import Fitting
from training.images import Series
from training.settings import Settings

CALIBRATION_SECONDS: Final = 20.0  # of wall time


def timed(
    settings: Settings, training: list[Series], validation: list[Series], folder: Path, device: torch.device = CPU
) -> Settings:
    """Settings with a number of steps: as they are where they state one, else what fits into fit.cpu_minutes.

    Raises ConfigurationError: neither is stated; BadInputError: the number kept in the folder is unreadable.
    """
    if settings.fit.steps:
        return settings
    if not settings.fit.cpu_minutes:
        raise ConfigurationError("[fit] states neither steps nor cpu_minutes; state one of them")
    path = folder / "steps.json"
    if path.exists():
        try:
            steps = int(json.loads(path.read_text())["steps"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInputError(f"{path} does not hold the number of steps: {error}; remove the folder to start again") from error
    else:
        seconds = _seconds_per_step(settings, training, validation, device)
        steps = max(1, round(settings.fit.cpu_minutes * 60 / seconds))
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"steps": steps, "cpu_seconds_per_step": seconds}) + "\n")
    return replace(settings, fit=replace(settings.fit, steps=steps, cpu_minutes=0.0))


def _seconds_per_step(settings: Settings, training: list[Series], validation: list[Series], device: torch.device) -> float:
    """CPU seconds of a step, without validations."""
    fit = replace(settings.fit, steps=1 << 30, minutes=CALIBRATION_SECONDS / 60, validate_every=1 << 30, checkpoint_every=1 << 30)
    with tempfile.TemporaryDirectory(prefix="darkroom-timing-") as scratch:
        trial = Fitting(replace(settings, fit=fit), training, validation, Path(scratch), lambda _: None, device)
        state = trial.run().checkpoint
    return state.cpu_seconds / state.step
