"""Sessions of two servers that end before their result: on both sides, without waiting for anybody, and not the next one."""

import threading

import pytest

from protocols.engines import ENGINES
from protocols.errors import (
    PeerUnavailableError,
    RemoteProtocolError,
)
from protocols.identifiers import Role
from tests.server.joined_servers import Site


@pytest.fixture(params=ENGINES)
def site(tmp_path, request):
    return Site(tmp_path, request.param)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("how", ["dies", "fails"])
@pytest.mark.parametrize("opening", [0, 1])
def test_a_worker_that_fails_ends_the_session_on_both_sides_and_not_the_next(site, role, how, opening):
    site.session(1)
    site.workers[role].behaviour[role, opening] = how
    failed = dict(zip(Role, site.session(2)[:2], strict=True))
    assert isinstance(failed[role], RemoteProtocolError if how == "fails" else PeerUnavailableError)
    assert isinstance(failed[role.peer], PeerUnavailableError)
    site.workers[role].behaviour.clear()
    a, b, _ = site.session(3)
    assert a.push_id == b.push_id
    assert len(set(site.materials[Role.A])) == 3  # what the failure burnt is not used again


@pytest.mark.parametrize("role", Role)
def test_an_edge_that_leaves_in_the_middle_ends_the_session_on_both_sides(site, role):
    site.workers[role.peer].behaviour[role.peer, 1] = "hangs"

    def leave(at, stage, abort):
        if at is role and stage == "evaluating":
            threading.Timer(0.1, abort).start()

    for result in site.session(1, during=leave)[:2]:
        assert isinstance(result, PeerUnavailableError)
    site.workers[role.peer].behaviour.clear()
    a, b, _ = site.session(2)
    assert a.push_id == b.push_id


@pytest.mark.parametrize("role", Role)
def test_an_edge_that_leaves_while_a_worker_computes_does_not_wait_for_it(site, role):
    """No message is due then, so the worker's pipe itself must wake the session."""
    site.workers[role].behaviour[role, "ready"] = "hangs"

    def leave(at, stage, abort):
        if at is role and stage == "dealing":
            threading.Timer(0.1, abort).start()

    for result in site.session(1, during=leave)[:2]:
        assert isinstance(result, PeerUnavailableError)


@pytest.mark.parametrize("role", Role)
def test_an_edge_that_leaves_while_the_dealer_is_silent_does_not_wait_for_it(site, role):
    site.dealers[role].silent = True

    def leave(at, stage, abort):
        if at is role and stage == "dealing":
            threading.Timer(0.1, abort).start()

    for result in site.session(1, during=leave)[:2]:
        assert isinstance(result, PeerUnavailableError)


def test_an_edge_that_has_left_before_the_worker_started(site):
    def leave(at, stage, abort):
        if at is Role.B and stage == "dealing":
            abort()

    a, b, _ = site.session(1, during=leave)
    assert isinstance(a, PeerUnavailableError)
    assert isinstance(b, PeerUnavailableError)
    assert site.materials[Role.B] == []
