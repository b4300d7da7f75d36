"""Wait for a busy server, as long as the user allows, and ask again. Run by client and edge.

Only a refusal before anything was begun is followed by another attempt: the server says so, and when to come again. What is
attempted must choose a new session id each time; `client.edge.denoise` does.
"""

import secrets
from collections.abc import Callable
from time import monotonic, sleep
from typing import Final, TypeVar

from client.progress import Progress, Step
from protocols.errors import PeerUnavailableError

T = TypeVar("T")
SPREAD: Final = 0.25  # of the time that was named, on top: those who were refused together do not come back together
SHORTEST_SECONDS: Final = 1.0


def patiently(
    attempt: Callable[[], T],
    seconds: float,
    progress: Progress,
    *,
    clock: Callable[[], float] = monotonic,
    pause: Callable[[float], None] = sleep,
    spread: Callable[[], float] = lambda: secrets.randbelow(1000) / 1000,
) -> T:
    """Attempt until it is no longer refused as busy, for at most `seconds` of waiting.

    Raises what the attempt raises; the refusal itself where the next attempt would come after `seconds`.
    """
    deadline = clock() + seconds
    while True:
        try:
            return attempt()
        except PeerUnavailableError as error:
            if error.retry_seconds is None:
                raise
            wait = max(SHORTEST_SECONDS, error.retry_seconds * (1.0 + SPREAD * spread()))
            if clock() + wait > deadline:
                raise
            progress(Step("edge", f"{error}; waiting {wait:.0f} s, nothing was begun"))
        pause(wait)
