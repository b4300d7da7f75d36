"""Waiting for a busy server: only where nothing was begun, only as long as allowed, each time a new session."""

import grpc
import pytest
import torch

from client import both_servers
from client.acquisition import store
from client.edge import denoise
from client.progress import silent
from client.waiting import patiently
from proto.status import RETRY_KEY
from protocols.errors import AccessDenied, BusyError, PeerUnavailableError
from protocols.identifiers import Role


class Time:
    def __init__(self):
        self.now, self.pauses = 0.0, []

    def clock(self):
        return self.now

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


class Attempt:
    """Fails with these errors in turn, then succeeds."""

    def __init__(self, *errors):
        self.errors, self.calls = list(errors), 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def wait(attempt, seconds, time, spread=0.0, progress=silent):
    return patiently(attempt, seconds, progress, clock=time.clock, pause=time.pause, spread=lambda: spread)


def busy(seconds):
    return BusyError("server A is busy; try again in about 10 s", retry_seconds=seconds)


def test_it_waits_as_long_as_the_server_said_and_tries_again():
    time, steps = Time(), []
    attempt = Attempt(busy(10), busy(20), PeerUnavailableError("shutting down", retry_seconds=30))
    assert wait(attempt, 100, time, progress=steps.append) == "done"
    assert time.pauses == [10, 20, 30]
    assert "nothing was begun" in steps[0].stage


def test_not_longer_than_allowed():
    time, attempt = Time(), Attempt(busy(10), busy(10), busy(10))
    with pytest.raises(BusyError) as refused:
        wait(attempt, 25, time)
    assert (time.pauses, attempt.calls, refused.value.retry_seconds) == ([10, 10], 3, 10)


def test_without_patience_at_once():
    time, attempt = Time(), Attempt(busy(10))
    with pytest.raises(BusyError):
        wait(attempt, 0, time)
    assert (time.pauses, attempt.calls) == ([], 1)


@pytest.mark.parametrize("error", [PeerUnavailableError("the link broke"), BusyError("full"), AccessDenied("window")])
def test_a_failure_that_may_have_begun_something_is_not_tried_again(error):
    time, attempt = Time(), Attempt(error)
    with pytest.raises(type(error)):
        wait(attempt, 1000, time)
    assert attempt.calls == 1


def test_those_refused_together_come_back_apart_and_nobody_in_a_tight_loop():
    time = Time()
    wait(Attempt(busy(20)), 100, time, spread=1.0)
    wait(Attempt(busy(0)), 100, time)
    assert time.pauses == [25, 1]


class Refused(grpc.RpcError, grpc.Call):
    """What a stub raises, with trailing metadata; a real call's other half is not used."""

    def __init__(self, metadata):
        super().__init__()
        self._metadata = metadata

    def code(self):
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self):
        return "server A is busy; try again in about 12 s"

    def trailing_metadata(self):
        return self._metadata

    def _unused(self, *_):
        raise NotImplementedError

    initial_metadata = is_active = time_remaining = cancel = add_callback = _unused


class BusyOnce:
    """A server that refuses the first evaluation, before or after it said that it began."""

    def __init__(self, server, stage):
        self._evaluate, self._stage = server._evaluate, stage
        self.left = 1

    def __call__(self, request):
        replies = self._evaluate(request)
        if self.left:
            self.left -= 1
            if self._stage:
                first = next(replies)
                first.stage = self._stage
                yield first
            raise Refused(((RETRY_KEY, "12"),))
        yield from replies


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(both_servers, "GRACE_SECONDS", 0.05)


@pytest.mark.parametrize("stage", ["", "waiting: 3 ahead, about 9 s"])
def test_a_second_attempt_is_a_new_session_with_new_shares(hospital, servers, image, monkeypatch, stage):
    record = store(hospital, image, sigma=0.1)
    monkeypatch.setattr(servers[Role.A], "_evaluate", BusyOnce(servers[Role.A], stage))
    time = Time()
    result = wait(lambda: denoise(hospital, record.object_id, model="base"), 60, time)
    assert torch.equal(result.pixels, image.pixels)
    assert time.pauses == [12]
    for server in servers.values():
        first, second = server.requests
        assert first.session_id != second.session_id
        assert first.sigma_share != second.sigma_share


@pytest.mark.parametrize("stage", ["dealing", "evaluating"])
def test_a_server_that_had_begun_is_not_believed(hospital, servers, image, monkeypatch, stage):
    record = store(hospital, image, sigma=0.1)
    monkeypatch.setattr(servers[Role.A], "_evaluate", BusyOnce(servers[Role.A], stage))
    with pytest.raises(BusyError, match=f"while {stage}") as refused:
        wait(lambda: denoise(hospital, record.object_id, model="base"), 60, Time())
    assert refused.value.retry_seconds is None
    assert len(servers[Role.A].requests) == 1
