"""The queue in front of the one evaluation that a server makes at a time: bounded, first come first served. No I/O.

A session enters (or is told that the server is busy, and when to come again), lines up when its peer has joined, and is told
how many are ahead of it and about how long they take: the median of recent evaluations. Run by both servers; A's order is the
order of work, and B takes its turn when A's order comes.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from statistics import median
from time import monotonic
from types import TracebackType
from typing import Final, Self

from proto.admission import shutting_down
from protocols.errors import BusyError, LocalProtocolError, SessionBrokenError

REMEMBERED_TURNS: Final = 15  # the estimate follows a change of image size or model within a few evaluations
FIRST_RETRY_SECONDS: Final = 15  # before the first evaluation has been measured
LONGEST_RETRY_SECONDS: Final = 600


@dataclass(frozen=True)
class Position:
    """Where a session stands. seconds: the estimated wait; None before anything was measured."""

    ahead: int
    seconds: float | None

    def __str__(self) -> str:
        estimate = "" if self.seconds is None else f", about {math.ceil(self.seconds)} s"
        return f"waiting: {self.ahead} ahead{estimate}"


class TurnQueue:
    """Places of one server. Safe for several threads."""

    def __init__(self, name: str, waiting: int, *, clock: Callable[[], float] = monotonic) -> None:
        """name: as in messages, "server A". waiting: sessions that may wait beside the one that has the turn."""
        self._name = name
        self.capacity: Final = waiting + 1
        self._clock = clock
        self._condition = threading.Condition()
        self._places: set[Place] = set()
        self._line: list[Place] = []
        self._holder: Place | None = None
        self._began = 0.0
        self._turns: deque[float] = deque(maxlen=REMEMBERED_TURNS)
        self._draining = False

    def enter(self, dropped: Callable[[], None] = lambda: None) -> "Place":
        """A place; use it as a context. dropped: called (in another thread) where the server stops before the turn comes.

        Raises BusyError: all places are taken. PeerUnavailableError: shutting down. Both say when to try again.
        """
        with self._condition:
            if self._draining:
                raise shutting_down(self._name)
            if len(self._places) >= self.capacity:
                seconds = self._retry_seconds()
                raise BusyError(
                    f"{self._name} is busy: {self.capacity} sessions are under way or waiting; try again in about {seconds} s",
                    retry_seconds=seconds,
                )
            place = Place(self, dropped)
            self._places.add(place)
            return place

    @property
    def busy(self) -> bool:
        """Whether somebody has the turn."""
        return self._holder is not None

    @property
    def waiting(self) -> int:
        """Sessions that have a place and not the turn."""
        with self._condition:
            return len(self._places) - (self._holder is not None)

    def drain(self) -> None:
        """Begin nothing more: who has the turn keeps it, who waits is dropped."""
        with self._condition:
            self._draining = True
            dropped = [place for place in self._places if place is not self._holder]
            for place in dropped:
                place.dropped = True
            self._condition.notify_all()
        for place in dropped:
            place.on_drop()

    # --- for Place ---

    def _line_up(self, place: "Place") -> None:
        with self._condition:
            if place in self._line or place is self._holder:
                raise LocalProtocolError("a session lines up for its turn once")
            if place in self._places:  # else it was left already, and must not stand in the others' way
                self._line.append(place)

    def _next(self, place: "Place", shown: int) -> Position | None:
        """Wait until the turn is this place's (None), or its position is no longer the one shown."""
        with self._condition:
            self._condition.wait_for(lambda: place.dropped or place not in self._places or self._ahead(place) != shown)
            place.require()
            if place not in self._places:
                raise SessionBrokenError("the session was cancelled while it waited for its turn")
            ahead = self._ahead(place)
            if ahead:
                return Position(ahead, self._estimate(ahead))
            self._line.remove(place)
            self._holder, self._began = place, self._clock()
            return None

    def _leave(self, place: "Place", *, done: bool) -> None:
        with self._condition:
            self._places.discard(place)
            if place in self._line:
                self._line.remove(place)
            if place is self._holder:
                self._holder = None
                if done:
                    self._turns.append(self._clock() - self._began)
            self._condition.notify_all()

    def _ahead(self, place: "Place") -> int:
        return self._line.index(place) + (self._holder is not None)

    def _estimate(self, ahead: int) -> float | None:
        """Seconds until `ahead` sessions are over."""
        if not self._turns:
            return None
        usual = median(self._turns)
        left = max(0.0, usual - (self._clock() - self._began)) if self._holder is not None else 0.0
        return left + usual * (ahead - (self._holder is not None))

    def _retry_seconds(self) -> int:
        """When a place may be free: the evaluation under way has ended."""
        estimate = self._estimate(1)
        if estimate is None:
            return FIRST_RETRY_SECONDS
        return min(max(1, math.ceil(estimate)), LONGEST_RETRY_SECONDS)


class Place:
    """One session's place, from its admission to the end of its evaluation."""

    def __init__(self, queue: TurnQueue, on_drop: Callable[[], None]) -> None:
        self._queue = queue
        self.on_drop: Final = on_drop
        self.dropped = False

    def turn(self) -> Generator[str]:
        """Line up; yields the position as a sentence whenever it changes, and returns when the turn has come.

        Raises SessionBrokenError: the place was left. PeerUnavailableError: the server shuts down.
        """
        self._queue._line_up(self)
        shown = -1
        while (position := self._queue._next(self, shown)) is not None:
            shown = position.ahead
            yield str(position)

    def require(self) -> None:
        """Raises PeerUnavailableError where the server has begun to stop before the turn came."""
        if self.dropped:
            raise shutting_down(self._queue._name)

    def leave(self, *, done: bool = False) -> None:
        """Give the place (and the turn) back; a thread that waits in it is woken. A second call does nothing.

        done: the evaluation was made, and its time counts for the estimate.
        """
        self._queue._leave(self, done=done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()
