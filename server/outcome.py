"""What evaluations gave and cost: repeated where a truncation was flagged, put together from tiles.

Run by both servers, in step.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final, Protocol

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
    nursery_peak_rss_bytes: int  # beside what it shares with any process, where the system tells that apart
    memory_bytes: int  # what a worker touches for such an evaluation: its addends and what is dealt; public
    flags: int = 0  # evaluations that were repeated
    earlier_peak_rss_bytes: int = 0  # of workers that lived at once, as far as one of them has ended before this outcome's

    @property
    def flagged(self) -> bool:
        return self.stats.flags > 0

    @property
    def peak_rss_bytes(self) -> int:
        """What the nursery and this session's workers have held at any time: with the server's own an upper bound, in bytes.

        It is the sum of the peaks of processes that lived at once, which need not have come at one time. Pages that the nursery
        shares with a worker are the worker's, and those of libraries, which the server maps too, the server's; where the system
        does not tell them apart they are counted in both, as are those that two workers share. A session that was prepared or
        evaluated at the same time has a worker of its own, which is not counted.
        """
        return self.nursery_peak_rss_bytes + max(self.stats.peak_rss_bytes, self.earlier_peak_rss_bytes)

    def after(self, earlier: "Outcome", *, overlapping: bool) -> "Outcome":
        """This outcome with the costs of the one before it added. overlapping: their workers lived at one time."""
        stats = pb.WorkerStats()
        stats.CopyFrom(self.stats)
        for name in ("ahead_seconds", "online_seconds", "rounds", "sent_bytes"):
            setattr(stats, name, getattr(stats, name) + getattr(earlier.stats, name))
        del stats.messages[:]
        stats.messages.extend(summed(self.stats.messages, earlier.stats.messages))
        at_once = earlier.stats.peak_rss_bytes + (self.stats.peak_rss_bytes if overlapping else 0)
        return replace(
            self,
            stats=stats,
            offline_seconds=self.offline_seconds + earlier.offline_seconds,
            dealt_bytes=self.dealt_bytes + earlier.dealt_bytes,
            dealer_peak_rss_bytes=max(self.dealer_peak_rss_bytes, earlier.dealer_peak_rss_bytes),
            nursery_peak_rss_bytes=max(self.nursery_peak_rss_bytes, earlier.nursery_peak_rss_bytes),
            earlier_peak_rss_bytes=max(at_once, earlier.earlier_peak_rss_bytes),
            flags=self.flags + earlier.flags + earlier.flagged,
        )


class Evaluation(Protocol):
    """One evaluation of one tile that has begun: its material comes."""

    def get_ready(self, waited_since: float) -> None:
        """Wait for the material here and at the other server. waited_since: when waiting for it began."""

    def finish(self) -> Generator[str, None, Outcome]:
        """Evaluate; yields stages."""

    def stop(self) -> None:
        """Give everything back, whether finished or not."""


Begin = Callable[[int, bool], Generator[str, None, Evaluation]]  # a tile's number, and whether another evaluation is under way
Wait = Callable[[], Generator[str]]  # until an evaluation that is ready may go on; a second time it returns at once


def assembled(tiles: Sequence[Tile], begin: Begin, wait: Wait) -> Generator[str, None, Outcome]:
    """Evaluate each tile and put the kept parts together. Yields stages.

    wait: for the session before, once the first material is here; its time is neither offline nor online.
    While one tile is evaluated, the material of the next comes. A tile with a flagged truncation is evaluated again, last, on
    fresh material: the flag is a function of openings that both servers hold, and as likely for every image
    (protocols.truncation), so repeating says nothing. Nothing else is ever repeated. Each tile's share is re-randomised by
    itself, so the parts of the sum are as uniform as one share is. Raises RemoteProtocolError: MAX_REPEATS were not enough.
    """
    left, repeats = deque(range(len(tiles))), Counter[int]()
    begun: deque[tuple[int, Evaluation, bool]] = deque()  # and whether another one was under way then
    picture, total = _Picture(tiles), None
    waited_since = monotonic()
    try:
        while left or begun:
            if not begun:
                begun.append((left[0], (yield from begin(left.popleft(), False)), False))
            number, evaluation, ahead = begun[0]
            evaluation.get_ready(waited_since)
            yield from wait()
            if left:
                begun.append((left[0], (yield from begin(left.popleft(), True)), True))
            if len(tiles) > 1:
                yield f"tile {number + 1} of {len(tiles)}"
            outcome = yield from evaluation.finish()
            begun.popleft()
            waited_since = monotonic()
            total = outcome if total is None else outcome.after(total, overlapping=ahead)
            if not outcome.flagged:
                picture.add(number, outcome)
                continue
            repeats[number] += 1
            if repeats[number] > MAX_REPEATS:
                often = f"{MAX_REPEATS + 1} evaluations in a row"
                raise RemoteProtocolError(f"truncation was flagged in {often}: the ranges of the model's wires are too wide")
            yield "repeating: a truncation was flagged"
            left.append(number)
    finally:
        for _, evaluation, _ in begun:
            evaluation.stop()
    if total is None:
        raise RemoteProtocolError("an image has at least one tile")
    return replace(total, share=picture.share, shape=picture.shape)


class _Picture:
    """The output share of an image whose tiles come in any order. A single tile may be any shape: its share stays as it is."""

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self._tiles = tiles
        self._whole: torch.Tensor | None = None
        self._single = b""
        self.shape = (0, 0, 0)

    @property
    def share(self) -> bytes:
        return self._single if self._whole is None else ring.to_bytes(self._whole)

    def add(self, number: int, outcome: Outcome) -> None:
        if len(self._tiles) == 1:
            self._single, self.shape = outcome.share, outcome.shape
            return
        if self._whole is None:
            height, width = (max(tile.place[axis].stop for tile in self._tiles) for axis in range(2))
            self.shape = (outcome.shape[0], height, width)
            self._whole = torch.empty(self.shape, dtype=torch.int64)
        tile = self._tiles[number]
        self._whole[:, *tile.place] = ring.from_bytes(outcome.share, outcome.shape)[:, *tile.kept]
