import threading

import pytest

from client import both_servers
from client.both_servers import at_both
from protocols.errors import AccessDenied, BusyError, NotFoundError, PeerUnavailableError, RemoteProtocolError
from protocols.identifiers import Role


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(both_servers, "GRACE_SECONDS", 0.05)


def run(a, b, cancel=lambda: None):
    return at_both({Role.A: a, Role.B: b}, cancel)


def failing(error, after=None):
    """A call that fails at once, or when the event `after` says so."""

    def job():
        assert after is None or after.wait(60)
        raise error

    return job


def test_both_results():
    assert run(lambda: 1, lambda: 2) == {Role.A: 1, Role.B: 2}


def test_the_other_call_is_cancelled_when_one_fails():
    cancelled = threading.Event()

    def waits():
        assert cancelled.wait(10)
        raise PeerUnavailableError("the call to server B was cancelled")

    with pytest.raises(RemoteProtocolError, match="A broke"):
        run(failing(RemoteProtocolError("A broke")), waits, cancelled.set)


@pytest.mark.parametrize(
    "telling", [AccessDenied("window"), NotFoundError("no model"), BusyError("queue"), RemoteProtocolError("x")]
)
@pytest.mark.parametrize("first", [True, False])
def test_the_more_telling_error_wins(telling, first):
    cancelled = threading.Event()  # comes when one call has failed and the other's grace is over
    unreachable = failing(PeerUnavailableError("server B went away"), None if first else cancelled)
    with pytest.raises(type(telling)):
        run(unreachable, failing(telling, cancelled if first else None), cancelled.set)


def test_of_two_alike_the_earlier_wins():
    cancelled = threading.Event()
    with pytest.raises(PeerUnavailableError, match="earlier"):
        run(failing(PeerUnavailableError("later"), cancelled), failing(PeerUnavailableError("earlier")), cancelled.set)


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(failing(AccessDenied("no")), failing(ZeroDivisionError()))
