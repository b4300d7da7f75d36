"""How long to wait before a peer is asked again: longer each time, or as long as the peer says."""

from typing import Final

from protocols.errors import DarkroomError, PeerUnavailableError

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0


class BackOff:
    """Waits that double. One for each thing that is tried."""

    def __init__(self, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS) -> None:
        self._next, self._longest = first, longest
        self.waited = 0.0

    def next(self, error: DarkroomError) -> float:
        """Seconds to wait now. What a busy peer asks for counts, within a second and the longest wait."""
        seconds = self._next
        self._next = min(2.0 * self._next, self._longest)
        asked = retry_seconds(error)
        if asked is not None:
            seconds = min(max(asked, FIRST_SECONDS), self._longest)
        self.waited += seconds
        return seconds


def retry_seconds(error: DarkroomError) -> float | None:
    """What a peer that refused before it had begun asks us to wait, if it does."""
    return error.retry_seconds if isinstance(error, PeerUnavailableError) else None
