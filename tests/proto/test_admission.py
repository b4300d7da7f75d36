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
