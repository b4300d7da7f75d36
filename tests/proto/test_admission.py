"""Places of each identity, and none for new work while the party shuts down."""

import threading

import pytest

from proto.admission import RETRY_SECONDS, Admission
from protocols.errors import BusyError, PeerUnavailableError

SECONDS = 60


def test_each_identity_has_its_own_limit():
    admission = Admission("server A", {"client": 1})
    with admission.place("client"), admission.place("edge"), admission.place("edge"):
        assert admission.under_way == 3
        with (
            pytest.raises(BusyError, match="server A has 1 calls of client under way; try again in about") as refused,
            admission.place("client"),
        ):
            pass
        assert refused.value.retry_seconds == RETRY_SECONDS
    with admission.place("client"):
        assert admission.under_way == 1
    assert admission.under_way == 0


def test_draining_begins_nothing_and_lets_what_was_begun_go_on():
    admission = Admission("the dealer", {})
    with admission.place("A"):
        admission.drain()
        with pytest.raises(PeerUnavailableError, match="the dealer is shutting down") as refused, admission.place("A"):
            pass
        assert refused.value.retry_seconds > 0
        with admission.place("B", begins=False):
            assert admission.under_way == 2


def test_waiting_for_the_last_call():
    admission = Admission("server A", {})
    assert admission.wait_idle(0)
    inside, release = threading.Event(), threading.Event()

    def call():
        with admission.place("edge"):
            inside.set()
            release.wait(SECONDS)

    thread = threading.Thread(target=call)
    thread.start()
    assert inside.wait(SECONDS)
    assert not admission.wait_idle(0)
    release.set()
    assert admission.wait_idle(SECONDS)
    thread.join(SECONDS)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_a_call_that_must_follow_counts_until_it_has_come_or_is_late():
    clock = Clock()
    admission = Admission("the dealer", {}, clock=clock)
    with admission.place("A"):
        admission.expect("A's claim", 30)
        admission.expect("B's claim", 30)
    assert not admission.wait_idle(0)
    with admission.place("A", begins=False):
        admission.come("A's claim")
    assert not admission.wait_idle(0)
    clock.now += 29
    assert not admission.wait_idle(0)
    clock.now += 2
    assert admission.wait_idle(0)
    admission.expect("another", 30)
    assert list(admission._due) == ["another"]  # what was late is not kept
    admission.come("another")
    admission.come("another")  # again: nothing
    assert admission.wait_idle(0)


def test_who_waits_is_woken_by_the_call_that_must_follow():
    admission = Admission("the dealer", {})
    admission.expect("B's claim", SECONDS)
    timer = threading.Timer(0.1, admission.come, ("B's claim",))
    timer.start()
    assert admission.wait_idle(SECONDS)
    timer.join()
