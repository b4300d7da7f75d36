"""From a checkpoint to the model file that is shipped."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import safe_open

from client.model_file import load_model, save_model
from protocols.network import Network
from protocols.wire_ranges import RangedNetwork, measured_ranges
from training.architecture import on_grid
from training.bounds import measure_bounds
from training.checkpoint import Checkpoint
from training.images import Series

BOUND_SEED: Final = 7
OVERFLOW: Final = 1e30  # stands for all that is larger, and for an overflow, in what a file states
USUAL: Final = "wire_bounds_usual"  # over patterns and slices: what the ranges cover
WRITTEN: Final = ("format", "network", "conditioning", "bound")  # by save_model itself


def export_model(path: Path, network: Network, checkpoint: Checkpoint, series: Sequence[Series]) -> float:
    """Write the best weights (before the first validation: the averaged ones) and give the bound measured for them.

    The ranges cover patterns and slices, not what gradient ascent found: such an image hurts only the one who sends it, and
    covering it would make flags many times as frequent in every evaluation.
    Raises NetworkDescriptionError: a wire grows without limit on a pattern; train on, with more pressure.
    """
    weights = on_grid(network, checkpoint.best or checkpoint.average)
    bounds = measure_bounds(network, weights, series, seed=BOUND_SEED)
    ranged = measured_ranges(network, weights, np.random.default_rng(BOUND_SEED), known=bounds.usual)
    notes = {
        "wire_bounds": _rounded_up(bounds.wires),
        USUAL: _rounded_up(bounds.usual),
        "bound_patterns": f"{bounds.patterns:.3f}",
        "bound_slices": f"{bounds.slices:.3f}",
        "bound_ascent": f"{bounds.ascent:.3f}" if bounds.searches else "not searched",
        "rounding_error": f"{ranged.error:.3g}",
        "expected_flags_512": f"{ranged.expected_flags(512, 512):.3g}",
        "steps": str(checkpoint.step),
        "psnr_out_db": f"{checkpoint.best_psnr_db:.3f}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_model(partial, ranged.network, weights, bound=min(bounds.bound, OVERFLOW), **notes)
    partial.chmod(0o644)  # whatever the umask: a model that is shipped is public
    partial.replace(path)
    return min(bounds.bound, OVERFLOW)


def _rounded_up(wires: Mapping[str, float]) -> str:
    """Magnitudes by wire, as JSON, to three places."""
    return json.dumps({name: math.ceil(min(value, OVERFLOW) * 1000) / 1000 for name, value in wires.items()}, sort_keys=True)


def add_ranges(path: Path) -> RangedNetwork:
    """Fill in the ranges of a model file's network, in place; what its export found on slices counts as it did there.

    Raises BadInputError, NetworkDescriptionError.
    """
    model = load_model(path)
    with safe_open(path, framework="pt") as file:
        notes = {key: value for key, value in file.metadata().items() if key not in WRITTEN}
    bare = replace(model.network, ranges=())
    known = json.loads(notes.get(USUAL, "{}"))
    ranged = measured_ranges(bare, model.weights, np.random.default_rng(BOUND_SEED), known=known)
    notes |= {"rounding_error": f"{ranged.error:.3g}", "expected_flags_512": f"{ranged.expected_flags(512, 512):.3g}"}
    partial = path.with_suffix(".partial")
    save_model(partial, ranged.network, model.weights, bound=model.bound, **notes)
    partial.chmod(0o644)
    partial.replace(path)
    return ranged
