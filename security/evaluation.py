"""What an evaluation reports: checks, each with a broken twin on which it must fail, figures and the text a reviewer reads.

A check that cannot fail shows nothing. So every check is run a second time on a system that has lost the property (a dropped
mask, a reused mask, a leaked seed): the check counts as passed only if it holds on ours *and* fails on the twin.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from protocols.engines import MASKED

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """One run of a check on one system. `holds`: the property held. `measured`: what was seen, in words with numbers."""

    holds: bool
    measured: str
    figures: dict[str, float] = field(default_factory=dict)  # the numbers, for machines


@dataclass(frozen=True)
class Check:
    """One claim, the assumption it rests on, and its outcome on ours and on the broken twin."""

    claim: str
    assumption: str
    ours: Outcome
    twin: str  # what was broken in the twin
    broken: Outcome
    error_rate: str  # how often the check would be wrong on an honest system, and how it is derived

    @property
    def passed(self) -> bool:
        """It holds on ours and fails on the twin."""
        return self.ours.holds and not self.broken.holds


@dataclass(frozen=True)
class Picture:
    """A figure that was written, and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Evaluation:
    """One section of the report."""

    title: str
    question: str  # the reviewer's question that this section answers
    checks: tuple[Check, ...]
    text: str = ""  # Markdown: what was done, what follows, where the argument ends
    pictures: tuple[Picture, ...] = ()

    @property
    def passed(self) -> bool:
        """All checks passed."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Setting:
    """How much to run, and where pictures go."""

    quick: bool
    folder: Path
    tell: Tell
    engine: str = MASKED  # of protocols.engines.ENGINES: what the live servers and workers run
