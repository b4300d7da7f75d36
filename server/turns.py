"""The queue in front of the one evaluation that a server makes at a time: bounded, first come first served. No I/O.

A session enters (or is told that the server is busy, and when to come again), lines up when its peer has joined, and is told
how many are ahead of it and about how long they take: the median of recent evaluations. Run by both servers; A's order is the
order of work, and B lines up when A's order comes.

A turn has two stages, each held by one session at a time. *Preparing*: material is opened, dealt and folded into a worker.
*Evaluating*: the servers open masked wires. Who takes evaluating gives preparing up, so the next session gets ready meanwhile:
one is prepared ahead, never two. What must be alone at a server (the push of a model; an image of several tiles, which overlap
among themselves and so have two workers) takes evaluating before it prepares anything, and holds both. A session whose model must
be masked takes evaluating before it does so: two maskings of one model never cross.

Why nobody waits in a circle: stages are taken in the order preparing, evaluating, and evaluating alone is waited for with
something held. A session needs its other half only once it holds preparing at A, which orders B then: B's line has the order in
which A gave preparing out. So whatever a session waits for is held by an earlier one, at this server or the other, and the
earliest waits for nobody. A session that has broken off at one server ends at the other too, as their link has gone, and gives
its stages back when its worker has ended (`server.abort`).
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
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
        """name: as in messages, "server A". waiting: sessions that may wait beside the foremost one."""
        self._name = name
        self.capacity: Final = waiting + 1
        self._clock = clock
        self._condition = threading.Condition()
        self._places: set[Place] = set()
        self._line: list[Place] = []
        self._preparing: Place | None = None
        self._evaluating: Place | None = None
        self._began = 0.0  # when the foremost session became that
        self._turns: deque[float] = deque(maxlen=REMEMBERED_TURNS)
        self._draining = False

    def enter(self, dropped: Callable[[], None] = lambda: None) -> "Place":
        """A place; use it as a context. dropped: called (in another thread) where the server stops before its turn begins.

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
        """Whether a session's turn has begun."""
        with self._condition:
            return self._foremost is not None

    @property
    def waiting(self) -> int:
        """Sessions that have a place and are not foremost: one of them may be prepared."""
        with self._condition:
            return len(self._places) - (self._foremost is not None)

    def drain(self) -> None:
        """Begin nothing more: whose turn has begun keeps it, also who is prepared and waits; the others are dropped."""
        with self._condition:
            self._draining = True
            dropped = [place for place in self._places if place not in (self._preparing, self._evaluating)]
            for place in dropped:
                place.dropped = True
            self._condition.notify_all()
        for place in dropped:
            place.on_drop()

    # --- for Place ---

    @property
    def _foremost(self) -> "Place | None":
        """The session that ends first: the one that evaluates, else the one that prepares."""
        return self._evaluating or self._preparing

    def _line_up(self, place: "Place") -> None:
        with self._condition:
            if place in self._line or place in (self._preparing, self._evaluating):
                raise LocalProtocolError("a session lines up for its turn once")
            if place in self._places:  # else it was left already, and must not stand in the others' way
                self._line.append(place)

    def _next_to_prepare(self, place: "Place", shown: int) -> Position | None:
        """Wait until preparing is this place's (None), or its position is no longer the one shown."""
        with self._condition:

            def free() -> bool:
                return self._preparing is None and self._line[0] is place

            self._wait(place, lambda: free() or self._ahead(place) != shown)
            if not free():
                return self._position(place)
            self._line.remove(place)
            if self._foremost is None:
                self._began = self._clock()
            self._preparing = place
            return None

    def _next_to_evaluate(self, place: "Place", shown: int, *, alone: bool) -> Position | None:
        """Wait until evaluating is this place's (None), which prepares; as `_next_to_prepare`. alone: preparing is kept."""
        with self._condition:
            if place in self._places and place not in (self._preparing, self._evaluating):
                raise LocalProtocolError("a session evaluates after it has prepared")
            self._wait(place, lambda: self._evaluating in (None, place) or self._ahead(place) != shown)
            if self._evaluating not in (None, place):
                return self._position(place)
            self._evaluating = place
            if place is self._preparing and not alone:
                self._preparing = None
                self._condition.notify_all()
            return None

    def _wait(self, place: "Place", changed: Callable[[], bool]) -> None:
        """Raises SessionBrokenError: the place was left. PeerUnavailableError: it was dropped."""
        self._condition.wait_for(lambda: place.dropped or place not in self._places or changed())
        place.require()
        if place not in self._places:
            raise SessionBrokenError("the session was cancelled while it waited for its turn")

    def _evaluates(self, place: "Place") -> bool:
        with self._condition:
            return self._evaluating is place

    def _leave(self, place: "Place", *, done: bool) -> None:
        with self._condition:
            self._places.discard(place)
            if place in self._line:
                self._line.remove(place)
            was_foremost = place is self._foremost
            if place is self._preparing:
                self._preparing = None
            if place is self._evaluating:
                self._evaluating = None
            if was_foremost:
                now = self._clock()
                if done:
                    self._turns.append(now - self._began)
                self._began = now  # of the session that was prepared meanwhile, if there is one
            self._condition.notify_all()

    def _ahead(self, place: "Place") -> int:
        """Sessions that end before this one."""
        begun = {holder for holder in (self._preparing, self._evaluating) if holder is not None}
        if place is self._preparing:
            return len(begun - {place})
        return self._line.index(place) + len(begun)

    def _position(self, place: "Place") -> Position:
        ahead = self._ahead(place)
        return Position(ahead, self._estimate(ahead))

    def _estimate(self, ahead: int) -> float | None:
        """Seconds until `ahead` sessions are over, each as long as it usually holds up the next one."""
        if not self._turns:
            return None
        usual, foremost = median(self._turns), self._foremost is not None
        left = max(0.0, usual - (self._clock() - self._began)) if foremost else 0.0
        return left + usual * (ahead - foremost)

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

    def prepare(self) -> Generator[str]:
        """Line up; yields the position as a sentence whenever it changes, and returns when this session may prepare.

        Raises SessionBrokenError: the place was left. PeerUnavailableError: the server shuts down.
        """
        self._queue._line_up(self)
        yield from _told(self._queue._next_to_prepare, self)

    def evaluate(self) -> Generator[str, None, bool]:
        """Wait until no earlier session is evaluated, and let the next one prepare; yields as `prepare`. After it.

        Returns whether this call took evaluating: a session that repeats, or is alone, has it already. Raises as `prepare`.
        """
        taken = not self._queue._evaluates(self)
        yield from _told(partial(self._queue._next_to_evaluate, alone=False), self)
        return taken

    def alone(self) -> Generator[str]:
        """As `evaluate`, but nobody prepares until this session calls that, or leaves. While this one prepares."""
        yield from _told(partial(self._queue._next_to_evaluate, alone=True), self)

    def require(self) -> None:
        """Raises PeerUnavailableError where the server has begun to stop before the turn began."""
        if self.dropped:
            raise shutting_down(self._queue._name)

    def leave(self, *, done: bool = False) -> None:
        """Give the place (and its stages) back; a thread that waits in it is woken. A second call does nothing.

        done: the evaluation was made, and its time counts for the estimate.
        """
        self._queue._leave(self, done=done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()


def _told(following: Callable[[Place, int], Position | None], place: Place) -> Generator[str]:
    """Each position once."""
    shown = -1
    while (position := following(place, shown)) is not None:
        shown = position.ahead
        yield str(position)
