"""A signal that comes in the middle of a step is put off, not lost."""

import signal
from collections.abc import Iterator

import pytest

from darkroom.uninterrupted import uninterrupted
from protocols.errors import PeerUnavailableError


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    before = signal.signal(request.param, signal.default_int_handler)  # raises KeyboardInterrupt
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_comes_after_the_block(number: signal.Signals) -> None:
    steps: list[str] = []

    def delete() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            signal.raise_signal(number)
            steps.append("deleted")

    with pytest.raises(KeyboardInterrupt):
        delete()
    assert steps == ["deleted"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)  # the handler is the former one again


def test_a_failure_of_the_block_does_not_lose_it(number: signal.Signals) -> None:
    def fail() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            raise PeerUnavailableError("server A is gone")

    with pytest.raises(KeyboardInterrupt) as caught:
        fail()
    assert isinstance(caught.value.__context__, PeerUnavailableError)


def test_without_a_signal_nothing_is_raised(number: signal.Signals) -> None:
    with uninterrupted():
        pass
    with pytest.raises(PeerUnavailableError), uninterrupted():
        raise PeerUnavailableError("server A is gone")
