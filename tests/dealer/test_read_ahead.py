"""Items come in order, no more than the depth ahead; errors reach the reader; closing ends the thread."""

import threading

import pytest

from dealer.read_ahead import ReadAhead


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "dealing"]


def test_items_come_in_order_and_the_thread_ends():
    with ReadAhead(iter(range(100)), depth=3) as items:
        assert list(items) == list(range(100))
    assert not threads()


def test_no_more_is_made_than_the_depth_ahead():
    made, third = [], threading.Event()

    def make():
        for number in range(10):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    with ReadAhead(make(), depth=3) as items:
        assert third.wait(10)
        assert made == [0, 1, 2]
        assert list(items) == list(range(10))


def test_a_reader_that_stops_ends_the_thread():
    with ReadAhead(iter(range(100)), depth=3) as items:
        assert next(items) == 0
    assert not threads()


def test_what_making_raises_reaches_the_reader():
    def make():
        yield 1
        raise LookupError("no more")

    with ReadAhead(make(), depth=3) as items:
        assert next(items) == 1
        with pytest.raises(LookupError, match="no more"):
            next(items)


def test_an_abandoned_reader_ends_the_thread():
    def read():
        with ReadAhead(iter(range(100)), depth=2) as items:
            yield from items

    reader = read()
    next(reader)
    del reader
    assert not threads()
