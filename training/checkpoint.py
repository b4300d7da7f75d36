"""Checkpoints: everything that a run needs to go on as if it had not been cut. Written atomically.

Batches are a function of (seed, step), so no generator state is kept.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from protocols.errors import BadInputError


@dataclass(eq=False)
class Checkpoint:
    """The state of a run after `step` steps. best: the averaged weights with the best validation PSNR so far."""

    fingerprint: str  # of the settings: a checkpoint continues only the run that wrote it
    step: int
    weights: dict[str, Tensor] = field(repr=False)
    average: dict[str, Tensor] = field(repr=False)
    optimiser: list[dict[str, Any]] = field(repr=False)
    best: dict[str, Tensor] = field(repr=False)
    best_psnr_db: float
    usual_loss: float
    rate_scale: float
    restores: int
    skipped: int
    seconds: float
    cpu_seconds: float
    offenders: list[int] = field(default_factory=list)  # hostile images on which wires grow largest: training.offenders

    @classmethod
    def at_start(cls, fingerprint: str) -> "Checkpoint":
        """Before the first step, nothing saved yet."""
        return cls(
            fingerprint=fingerprint,
            step=0,
            weights={},
            average={},
            optimiser=[],
            best={},
            best_psnr_db=-math.inf,
            usual_loss=math.inf,
            rate_scale=1.0,
            restores=0,
            skipped=0,
            seconds=0.0,
            cpu_seconds=0.0,
        )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint at `path`: a cut leaves the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(vars(checkpoint), partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; tensors and plain values only, no code. Raises BadInputError."""
    if not is_zipfile(path):  # what torch writes; other bytes raise all kinds of errors
        raise BadInputError(f"{path} is not a readable checkpoint; remove it to start again")
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, TypeError, UnpicklingError) as error:
        raise BadInputError(f"{path} is not a readable checkpoint: {error}; remove it to start again") from error
