"""Ready is not alive: who is asked, what is remembered, and what a party says while it drains."""

import grpc
import pytest
from grpc_health.v1 import health_pb2

from proto import readiness
from proto.metrics import PartyMetrics
from proto.readiness import ALIVE, SERVER, Readiness, require_alive
from protocols.errors import PeerUnavailableError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Party:
    """What a listener hosts; `problem` is why it is not ready."""

    health_name = SERVER

    def __init__(self):
        self.metrics = PartyMetrics("server A")
        self.problem = None
        self.asked = 0

    def require_ready(self):
        self.asked += 1
        if self.problem:
            raise PeerUnavailableError(self.problem)

    def drain(self):
        """Not used here."""

    def wait_idle(self, seconds):
        return True


class Context:
    def __init__(self):
        self.code = None

    def set_code(self, code):
        self.code = code

    def set_details(self, details):
        """Not looked at."""


@pytest.fixture
def party():
    return Party()


@pytest.fixture
def health(party, monkeypatch):
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)
    return Readiness(party)


def ask(health, service):
    context = Context()
    answer = health.Check(health_pb2.HealthCheckRequest(service=service), context)
    return context.code or answer.status


def test_ready_and_alive_are_told_apart(health, party):
    assert ask(health, SERVER) == SERVING
    party.problem = "the dealer did not answer in time"
    assert ask(health, SERVER) == NOT_SERVING
    assert ask(health, ALIVE) == SERVING
    assert party.metrics.registry.get_sample_value("darkroom_ready") == 0
    party.problem = None
    assert ask(health, SERVER) == SERVING
    assert party.metrics.registry.get_sample_value("darkroom_ready") == 1
    assert ask(health, "another") is grpc.StatusCode.NOT_FOUND


def test_asking_whether_it_is_alive_troubles_no_peer(health, party):
    for _ in range(5):
        assert ask(health, ALIVE) == SERVING
    assert party.asked == 0


def test_peers_are_not_asked_again_at_once(party, monkeypatch):
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 3600.0)
    health = Readiness(party)
    for _ in range(5):
        assert ask(health, SERVER) == SERVING
    assert party.asked == 1


def test_a_draining_party_is_alive_and_never_ready_again(health, party):
    assert ask(health, SERVER) == SERVING
    health.drain()
    assert ask(health, SERVER) == NOT_SERVING
    assert ask(health, ALIVE) == SERVING
    assert party.metrics.registry.get_sample_value("darkroom_ready") == 0


def test_an_answer_that_comes_after_the_drain_changes_nothing(party, monkeypatch):
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)
    health = Readiness(party)
    monkeypatch.setattr(party, "require_ready", health.drain)  # the peer's answer took until then
    assert ask(health, SERVER) == NOT_SERVING


def test_a_peer_that_answers_and_stops_is_not_alive(monkeypatch):
    class Stub:
        def __init__(self, channel):
            """The answer is the test's."""

        def Check(self, request, timeout):
            assert request.service == ALIVE
            return health_pb2.HealthCheckResponse(status=status)

    monkeypatch.setattr(readiness.health_pb2_grpc, "HealthStub", Stub)
    status = SERVING
    require_alive(None, "the dealer")
    status = NOT_SERVING
    with pytest.raises(PeerUnavailableError, match="the dealer answers, but is stopping"):
        require_alive(None, "the dealer")
