"""Which calls may begin: places for each identity, and none at all while the party shuts down. Run by servers and dealer."""

import threading
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
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
    """Calls under way at one party, by identity. Safe for several threads."""

    def __init__(self, name: str, limits: Mapping[str, int]) -> None:
        """limits: calls of one identity at a time, so that none takes every thread; an identity that is absent has no limit."""
        self._name = name
        self._limits = limits
        self._condition = threading.Condition()
        self._under_way: Counter[str] = Counter()
        self._draining = False

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

    def drain(self) -> None:
        """Begin nothing more; what is under way goes on."""
        with self._condition:
            self._draining = True

    def wait_idle(self, seconds: float) -> bool:
        """Wait for the last call under way to end; whether it has."""
        with self._condition:
            return self._condition.wait_for(lambda: self.under_way == 0, seconds)
