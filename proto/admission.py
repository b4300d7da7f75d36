"""Which calls may begin: places for each identity, and none at all while the party shuts down. Run by servers and dealer."""

import threading
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Final

from protocols.errors import BusyError, PeerUnavailableError

RETRY_SECONDS: Final = 15  # an upload or a download ends; how soon is not known
RESTART_SECONDS: Final = 30  # what a party takes to come back, or its operator to start another


def shutting_down(name: str) -> PeerUnavailableError:
    """What a caller is told whose work a stopping party does not begin. name: as in messages, "server A"."""
    return PeerUnavailableError(
        f"{name} is shutting down, and nothing was begun; try again in about {RESTART_SECONDS} s, when it may be back",
        retry_seconds=RESTART_SECONDS,
    )


class Admission:
    """Calls under way at one party, by identity, and those that must follow them. Safe for several threads."""

    def __init__(self, name: str, limits: Mapping[str, int], *, clock: Callable[[], float] = monotonic) -> None:
        """limits: calls of one identity at a time, so that none takes every thread; an identity that is absent has no limit."""
        self._name = name
        self._limits = limits
        self._condition = threading.Condition()
        self._under_way: Counter[str] = Counter()
        self._draining = False
        self._clock = clock
        self._due: dict[Hashable, float] = {}  # calls that must follow, and until when they are waited for

    @contextmanager
    def place(self, caller: str, *, begins: bool = True) -> Generator[None]:
        """A place among this caller's calls. begins: False for a step of work that was begun before.

        Raises BusyError: no place. PeerUnavailableError: shutting down, and the call would begin something.
        """
        with self._condition:
            if self._draining and begins:
                raise shutting_down(self._name)
            limit = self._limits.get(caller)
            if limit is not None and self._under_way[caller] >= limit:
                raise BusyError(
                    f"{self._name} has {limit} calls of {caller} under way; try again in about {RETRY_SECONDS} s",
                    retry_seconds=RETRY_SECONDS,
                )
            self._under_way[caller] += 1
        try:
            yield
        finally:
            with self._condition:
                self._under_way[caller] -= 1
                self._condition.notify_all()

    @property
    def under_way(self) -> int:
        """Calls under way, of all identities."""
        return self._under_way.total()

    def expect(self, call: Hashable, seconds: float) -> None:
        """What was begun goes on with another call: it counts as under way until that has `come`, for so long at most."""
        with self._condition:
            now = self._clock()
            self._due = {due: until for due, until in self._due.items() if until > now}
            self._due[call] = now + seconds

    def come(self, call: Hashable) -> None:
        """An expected call is here, and holds a place of its own."""
        with self._condition:
            self._due.pop(call, None)
            self._condition.notify_all()

    def drain(self) -> None:
        """Begin nothing more; what is under way goes on."""
        with self._condition:
            self._draining = True

    def wait_idle(self, seconds: float) -> bool:
        """Wait for the last call under way to end, and for those that must follow; whether all have ended."""
        with self._condition:
            return self._condition.wait_for(lambda: self.under_way == 0 and not self._any_due(), seconds)

    def _any_due(self) -> bool:
        now = self._clock()
        return any(until > now for until in self._due.values())
