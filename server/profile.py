"""Where an evaluation's time goes at one server: of each message the seconds of arithmetic and of waiting, and bytes.

Timing alone, and public (DESIGN section 1).
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

from torch import Tensor

from proto import darkroom_pb2 as pb
from protocols.masked_evaluation import Opener
from protocols.ring import WORD_BYTES


class Stopwatch:
    """A message's time lasts until the next one begins. clock: seconds, never going back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = 0.0
        self.messages: list[pb.MessageCost] = []

    def begin(self, words: int) -> None:
        """The next message begins, of so many words."""
        self.stop()
        self._began = self._clock()
        self.messages.append(pb.MessageCost(sent_bytes=words * WORD_BYTES))

    def stop(self) -> None:
        """The last message's time ends."""
        if self.messages:
            last = self.messages[-1]
            last.arithmetic_seconds = self._clock() - self._began - last.waiting_seconds

    @contextmanager
    def waiting(self) -> Generator[None]:
        """The peer's words are read in this block."""
        started = self._clock()
        yield
        self.messages[-1].waiting_seconds += self._clock() - started


class TimedOpener:
    """An opener (protocols.masked_evaluation) whose messages are timed."""

    def __init__(self, opener: Opener, stopwatch: Stopwatch) -> None:
        self._opener = opener
        self._stopwatch = stopwatch

    def begin(self, index: int, words: int) -> None:
        """Announce message `index`."""
        self._stopwatch.begin(words)
        self._opener.begin(index, words)

    def send(self, block: Tensor) -> None:
        """The next words of this server's message."""
        self._opener.send(block)

    def receive(self, shape: tuple[int, ...]) -> Tensor:
        """The next words of the peer's message."""
        with self._stopwatch.waiting():
            return self._opener.receive(shape)


class TimedExchange:
    """An exchange of whole openings, timed: an opening's arithmetic is what follows it."""

    def __init__(self, exchange: Callable[[int, Sequence[Tensor]], list[Tensor]], stopwatch: Stopwatch) -> None:
        self._exchange = exchange
        self._stopwatch = stopwatch

    def __call__(self, index: int, own: Sequence[Tensor]) -> list[Tensor]:
        """One opening, both ways."""
        self._stopwatch.begin(sum(tensor.numel() for tensor in own))
        with self._stopwatch.waiting():
            return self._exchange(index, own)


def summed(first: Sequence[pb.MessageCost], second: Sequence[pb.MessageCost]) -> list[pb.MessageCost]:
    """Message by message, of two evaluations of one network."""
    return [
        pb.MessageCost(
            arithmetic_seconds=a.arithmetic_seconds + b.arithmetic_seconds,
            waiting_seconds=a.waiting_seconds + b.waiting_seconds,
            sent_bytes=a.sent_bytes + b.sent_bytes,
        )
        for a, b in zip_longest(first, second, fillvalue=pb.MessageCost())
    ]
