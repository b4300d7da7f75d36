"""A message's time is split into arithmetic and waiting, and costs of repetitions and tiles are added message by message."""

import pytest
import torch
from torch import Tensor

from proto import darkroom_pb2 as pb
from server.profile import Stopwatch, TimedExchange, TimedOpener, summed


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class SlowPeer:
    """An opener and an exchange whose peer takes two seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.begun: list[tuple[int, int]] = []

    def begin(self, index: int, words: int) -> None:
        self.begun.append((index, words))

    def send(self, block: Tensor) -> None:
        self.clock.now += 0.25  # handing it over is arithmetic

    def receive(self, shape: tuple[int, ...]) -> Tensor:
        self.clock.now += 2.0
        return torch.zeros(shape, dtype=torch.int64)

    def __call__(self, index: int, own: object) -> list[Tensor]:
        self.clock.now += 2.0
        return []


def test_an_opener_is_timed_message_by_message() -> None:
    clock = Clock()
    watch, peer = Stopwatch(clock), SlowPeer(clock)
    opener = TimedOpener(peer, watch)
    opener.begin(0, 3)
    opener.send(torch.zeros(3, dtype=torch.int64))
    assert tuple(opener.receive((3,)).shape) == (3,)
    clock.now += 0.5
    opener.begin(1, 5)
    opener.receive((5,))
    clock.now += 1.0
    watch.stop()
    assert peer.begun == [(0, 3), (1, 5)]
    assert watch.messages == [
        pb.MessageCost(arithmetic_seconds=0.75, waiting_seconds=2.0, sent_bytes=24),
        pb.MessageCost(arithmetic_seconds=1.0, waiting_seconds=2.0, sent_bytes=40),
    ]


def test_an_exchange_is_timed_opening_by_opening() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    exchange = TimedExchange(SlowPeer(clock), watch)
    exchange(0, [torch.zeros(2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)])
    clock.now += 1.0
    watch.stop()
    assert watch.messages == [pb.MessageCost(arithmetic_seconds=1.0, waiting_seconds=2.0, sent_bytes=48)]


def test_a_failing_peer_is_passed_on() -> None:
    watch = Stopwatch()
    watch.begin(1)
    with pytest.raises(OSError, match="broken"), watch.waiting():
        raise OSError("broken")


def test_costs_are_added_message_by_message() -> None:
    one = [pb.MessageCost(arithmetic_seconds=1, waiting_seconds=2, sent_bytes=8)]
    two = [*one, pb.MessageCost(arithmetic_seconds=4, sent_bytes=16)]
    assert summed(one, two) == summed(two, one)
    assert summed(one, two) == [
        pb.MessageCost(arithmetic_seconds=2, waiting_seconds=4, sent_bytes=16),
        pb.MessageCost(arithmetic_seconds=4, sent_bytes=16),
    ]
