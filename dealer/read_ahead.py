"""Making what comes next while what is there is sent: a thread that stays a bounded number of items ahead of its reader."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

from protocols.errors import PeerUnavailableError
from protocols.unpicklable import Unpicklable

Made = TypeVar("Made")


class ReadAhead(Unpicklable, Generic[Made]):
    """Reads `items` in a thread of its own, `depth` of them ahead. What they raise, the reader gets.

    To be closed: then the thread ends after the item it is making, and what was made and not read is forgotten.
    """

    def __init__(self, items: Iterator[Made], depth: int) -> None:
        """Raises PeerUnavailableError: no thread can be had."""
        self._items = items
        self._made: SimpleQueue[tuple[Made] | BaseException | None] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._closed = False
        self._thread = threading.Thread(target=self._make, name="dealing", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise PeerUnavailableError(f"no thread could be started ({error}): out of memory, or too many?") from error

    def __enter__(self) -> Iterator[Made]:
        return self._read()

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._room.release()
        self._thread.join()

    def _read(self) -> Iterator[Made]:
        while (made := self._made.get()) is not None:
            if isinstance(made, BaseException):
                try:
                    raise made
                finally:
                    del made  # it refers to this frame: the cycle would keep what was being dealt until it is looked for
            self._room.release()
            yield made[0]

    def _make(self) -> None:
        try:
            while self._room.acquire() and not self._closed:
                self._made.put((next(self._items),))
        except StopIteration:
            self._made.put(None)
        except BaseException as error:  # the reader's to handle, whatever it is
            self._made.put(error)
