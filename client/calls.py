"""Calls that one failure, or one Ctrl-C, ends together; begun in threads other than the main one.

Ctrl-C interrupts the main thread wherever it is. Where that is inside the beginning of a call, gRPC has a call for which no
thread takes events, and closing its channel waits for ever (grpcio 1.85, `grpc._channel._channel_managed_call_management`).
So the main thread begins none of the calls that gRPC runs in the background: `both_servers.at_both` does it in threads.
"""

import threading
from collections.abc import Callable
from typing import Any


class Calls:
    """Calls under way. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: list[Any] = []  # gRPC's calls, untyped
        self._cancelled = False

    def begin(self, call: Callable[[], Any]) -> Any:
        """Begin a call and give it back; where all were cancelled before, it is cancelled at once."""
        begun = call()
        with self._lock:
            self._begun.append(begun)
            cancelled = self._cancelled
        if cancelled:
            begun.cancel()
        return begun

    def cancel(self) -> None:
        """End all calls, and those that begin later. A finished one stays as it ended."""
        with self._lock:
            self._cancelled = True
            begun = list(self._begun)
        for call in begun:
            call.cancel()
