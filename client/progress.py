"""What the caller is told while client or edge is at work: which party does what. Public."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One stage, or a transfer's progress inside it (total_bytes is then above 0)."""

    who: str  # "client", "edge", "model owner", "server A" or "server B"
    stage: str
    done_bytes: int = 0
    total_bytes: int = 0


Progress = Callable[[Step], None]  # may be called from two threads at a time


def silent(step: Step) -> None:
    """Tell nobody."""
