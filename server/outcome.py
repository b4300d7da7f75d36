"""What evaluations gave and cost: repeated where a truncation was flagged, put together from tiles.

Run by both servers, in step.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import torch

from proto import darkroom_pb2 as pb
from protocols import ring
from protocols.errors import RemoteProtocolError
from protocols.identifiers import PushId
from protocols.tiles import Tile
from protocols.unpicklable import Unpicklable
from server.profile import summed

MAX_REPEATS: Final = 3  # of an evaluation with a flagged truncation; a flag has a probability below 1 %


@dataclass(frozen=True, eq=False)
class Outcome(Unpicklable):
    """This server's re-randomised output share, and what it cost."""

    share: bytes = field(repr=False)  # empty where a truncation was flagged
    stats: pb.WorkerStats
    engine: str
    offline_seconds: float
    dealt_bytes: int
    dealer_peak_rss_bytes: int
    push_id: PushId
    shape: tuple[int, int, int]
    flags: int = 0  # evaluations that were repeated

    @property
    def flagged(self) -> bool:
        return self.stats.flags > 0

    def after(self, earlier: "Outcome") -> "Outcome":
        """This outcome with the costs of the one before it added."""
        stats = pb.WorkerStats()
        stats.CopyFrom(self.stats)
        for name in ("ahead_seconds", "online_seconds", "rounds", "sent_bytes"):
            setattr(stats, name, getattr(stats, name) + getattr(earlier.stats, name))
        del stats.messages[:]
        stats.messages.extend(summed(self.stats.messages, earlier.stats.messages))
        stats.peak_rss_bytes = max(stats.peak_rss_bytes, earlier.stats.peak_rss_bytes)
        return replace(
            self,
            stats=stats,
            offline_seconds=self.offline_seconds + earlier.offline_seconds,
            dealt_bytes=self.dealt_bytes + earlier.dealt_bytes,
            dealer_peak_rss_bytes=max(self.dealer_peak_rss_bytes, earlier.dealer_peak_rss_bytes),
            flags=self.flags + earlier.flags + earlier.flagged,
        )


Evaluation = Callable[[], Generator[str, None, Outcome]]


def repeated(once: Evaluation) -> Generator[str, None, Outcome]:
    """Evaluate, and again on fresh material as long as a truncation was flagged.

    The flag is a function of openings that both servers hold, and as likely for every image (protocols.truncation): repeating
    says nothing. Nothing else is ever repeated. Raises RemoteProtocolError after MAX_REPEATS.
    """
    outcome = yield from once()
    for _ in range(MAX_REPEATS):
        if not outcome.flagged:
            return outcome
        yield "repeating: a truncation was flagged"
        outcome = (yield from once()).after(outcome)
    if outcome.flagged:
        raise RemoteProtocolError(
            f"truncation was flagged in {MAX_REPEATS + 1} evaluations in a row: the ranges of the model's wires are too wide"
        )
    return outcome


def assembled(tiles: Sequence[Tile], evaluate: Callable[[int], Generator[str, None, Outcome]]) -> Generator[str, None, Outcome]:
    """Evaluate each tile, by its number, and put the kept parts together. Each has its own material and its own repetitions.

    Each tile's share is re-randomised by itself, so the parts of the sum are as uniform as one share is. Yields which tile.
    """
    if len(tiles) == 1:
        return (yield from repeated(partial(evaluate, 0)))
    height, width = (max(tile.place[axis].stop for tile in tiles) for axis in range(2))
    whole: torch.Tensor | None = None
    total: Outcome | None = None
    for number, tile in enumerate(tiles):
        yield f"tile {number + 1} of {len(tiles)}"
        outcome = yield from repeated(partial(evaluate, number))
        share = ring.from_bytes(outcome.share, outcome.shape)
        if whole is None:
            whole = torch.empty(outcome.shape[0], height, width, dtype=torch.int64)
        whole[:, *tile.place] = share[:, *tile.kept]
        total = outcome if total is None else outcome.after(total)
    if whole is None or total is None:
        raise RemoteProtocolError("an image has at least one tile")
    return replace(total, share=ring.to_bytes(whole), shape=(whole.shape[0], height, width))
