"""Puts Ctrl-C, and the other signals that end a command, off until a step is whole."""

import contextlib
import signal
import threading
from collections.abc import Generator
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def uninterrupted() -> Generator[None]:
    """For steps that end in bounded time, and that half done would leave a share or a process that nobody knows of."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])  # not lost: a batch or a service would go on with the next image
