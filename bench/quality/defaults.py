"""What the report judges and draws where the command line names nothing: what is shipped, and what was trained in this clone."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.quality.figures import validations
from bench.quality.peers import BM3D

SHIPPED: Final = Path("darkroom/models")
UNSHIPPED: Final = Path("training/models")  # networks that a licence keeps out of the package
RUNS: Final = Path("training/runs")  # where `python -m training` puts them
DNCNN: Final = "dncnn"  # the run of the trained peer
NATURAL: Final = "natural"  # learned from photographs alone
NATURAL_DNCNN: Final = "natural-dncnn"
TRAIN: Final = "python -m training --config training/configs"


@dataclass(frozen=True)
class Found:
    """Files. missing: what was not found, each with how to make it."""

    paths: tuple[Path, ...]
    missing: tuple[str, ...] = ()


def models(shipped: Path = SHIPPED, runs: Path = RUNS) -> Found:
    """The shipped networks of medical images, ours first, then DnCNN."""
    found = sorted(shipped.glob("*.safetensors"))
    dncnn = runs / DNCNN / f"{DNCNN}.safetensors"
    if dncnn.exists():
        return Found((*found, dncnn))
    how = f"`{TRAIN}/{DNCNN}.toml` trains it, `python -m training export --config training/configs/{DNCNN}.toml` writes it so far"
    return Found(tuple(found), (f"{dncnn}: DnCNN stands in no table; {how}",))


def natural(unshipped: Path = UNSHIPPED, runs: Path = RUNS) -> Found:
    """The networks of photographs, ours first, then their DnCNN."""
    ours, peer = unshipped / f"{NATURAL}.safetensors", runs / NATURAL_DNCNN / f"{NATURAL_DNCNN}.safetensors"
    if not ours.exists():
        return Found((), (f"{ours}: no photographs are judged; `{TRAIN}/{NATURAL}.toml --output {ours}` trains it",))
    if not peer.exists():
        return Found((ours,), (f"{peer}: DnCNN stands in no table of photographs; `{TRAIN}/{NATURAL_DNCNN}.toml` trains it",))
    return Found((ours, peer))


def logs(runs: Path = RUNS) -> Found:
    """The logs of all runs that were validated at least once."""
    every = sorted(runs.glob("*/log.jsonl"))
    if not every:
        return Found((), (f"{runs}/*/log.jsonl: no training curve; `{TRAIN}/base.toml` trains a network",))
    validated = tuple(path for path in every if validations(path))
    early = [path for path in every if path not in validated]
    return Found(validated, tuple(f"a validation in {path}: it is not drawn; train longer" for path in early))


def peers(without: Sequence[str] = ()) -> Found:
    """BM3D, where it is wanted."""
    if BM3D in without or importlib.util.find_spec("bm3d") is not None:
        return Found(())
    return Found((), (f"{BM3D}: it stands in no table; `make quality` installs it (non-commercial licence)",))
