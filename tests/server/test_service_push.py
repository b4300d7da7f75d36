"""A push of a model at both services: stored at both or at neither, and what is told at a bad time. No sockets.

The services, queues, stores and channels are real; the dealer's ledger stands for the dealer.
"""

import threading
from dataclasses import dataclass, field

import grpc
import pytest
import torch

from dealer.ledger import DealingLedger
from proto import darkroom_pb2 as pb
from proto.status import RETRY_KEY
from protocols import ring, sharing
from protocols.errors import PeerUnavailableError
from protocols.identifiers import Role, SessionId
from protocols.prg import derive_key
from server import service as service_module
from server.config import ServerConfig
from server.peer_channel import PeerChannel
from server.service import ServerService
from tests.protocols.every_layer import EVERY_LAYER, encoded_weights, weights_of
from tests.server import test_service
from tests.server.fake_workers import FakeWorkers
from tests.server.ledger_dealer import LedgerDealer
from tests.server.test_peer_channel import joined
from tests.server.test_service import HOSPITAL, ByName, Context, Identity, Refused

peer = test_service.peer
SECONDS = 20


@dataclass
class Pair:
    """Both services; B's stream reaches A without a socket."""

    services: dict[Role, ServerService]
    links: dict[Role, PeerChannel] = field(default_factory=dict)  # of the last push, by whose end it is

    def dial(self, session_id):
        self.links = dict(zip(Role, joined(), strict=True))
        self.links[Role.A].boot = str(self.services[Role.B]._evaluator.boot_id)
        self.services[Role.A]._meeting.arrive(SessionId(session_id), self.links[Role.A])
        return self.links[Role.B]

    def push(self, number=1, roles=tuple(Role)):
        """Run by the model owner; the reply or refusal of each server."""
        answers = {}

        def run(role):
            try:
                answers[role] = self.services[role].PushModel(requests(role, number), Context("model-owner")).push_id
            except Refused as refused:
                answers[role] = refused

        threads = [threading.Thread(target=run, args=(role,), daemon=True) for role in roles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a server hangs"
        assert not any(service._turns.busy or service._turns.waiting for service in self.services.values())
        return answers

    @property
    def held(self):
        """The upload that each server holds, or None."""
        stores = {role: service._models for role, service in self.services.items()}
        return [models.description("base").session_id if models.names() else None for models in stores.values()]


def requests(role, number):
    flat = torch.cat([tensor.flatten() for tensor in encoded_weights(EVERY_LAYER, weights_of(EVERY_LAYER, number)).values()])
    pair = sharing.share(flat, seed=derive_key(bytes(32), bytes([number])))
    seed = pair.seed if role is Role.A else b""
    header = pb.PushModelHeader(session_id=session(number), name="base", network=EVERY_LAYER.to_json(), seed=seed)
    yield pb.PushModelRequest(header=header)
    if role is Role.B:
        yield pb.PushModelRequest(chunk=ring.to_bytes(pair.words))


def session(number):
    return f"{number:032x}"


@pytest.fixture
def pair(tmp_path, peer, monkeypatch):
    identity, ledger, services = Identity(peer.certificate, b"no key: no handshake is made here"), [DealingLedger()], {}
    for role in Role:
        leader = peer if role is Role.B else None
        config = ServerConfig(role, identity, tmp_path / role.value, HOSPITAL.public_key(), peer, leader, waiting=0)
        services[role] = ServerService(config, ByName(), FakeWorkers())
        services[role]._evaluator._dealer = LedgerDealer(role, ledger)
    pair = Pair(services)
    monkeypatch.setattr(services[Role.B], "_dial", pair.dial)
    return pair


def test_a_push_is_stored_at_both(pair):
    for number in (1, 2):
        answers = pair.push(number)
        assert answers[Role.A] == answers[Role.B]
        assert pair.held == [session(number)] * 2


def before(name, action, monkeypatch):
    """Do something when a channel comes to a step."""
    act = getattr(PeerChannel, name)

    def acting(channel, *arguments):
        action(channel, *arguments)
        return act(channel, *arguments)

    monkeypatch.setattr(PeerChannel, name, acting)


def test_a_link_that_breaks_before_b_has_it_all_leaves_the_older_model_at_both(pair, monkeypatch):
    pushes = pair.push(1)

    def break_off(channel, message):
        if message.WhichOneof("content") == "ready" and channel is pair.links[Role.B]:
            channel.close()

    before("send", break_off, monkeypatch)
    for answer in pair.push(2).values():
        assert answer.status in (grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED)
    assert pair.held == [session(1)] * 2
    # Its masked form too: were it lost at B alone, A would order the next evaluation under a push that B does not hold.
    assert {role: service._models.last_push("base") for role, service in pair.services.items()} == pushes


def test_a_disk_of_a_that_fails_at_the_last_step_leaves_the_older_model_at_both(pair, monkeypatch):
    pair.push(1)
    asked = []

    def fail_at_the_end(*_):
        asked.append(1)
        if len(asked) == 2:  # the first time is before the upload
            raise PeerUnavailableError("this server cannot store the share")

    monkeypatch.setattr(pair.services[Role.A]._models._store, "_refuse_taken", fail_at_the_end)
    answers = pair.push(2)
    assert "cannot store the share" in str(answers[Role.A])
    assert "ended the link" in str(answers[Role.B])
    assert pair.held == [session(1)] * 2


def test_a_link_that_breaks_between_the_two_is_told_and_b_keeps_the_older_model(pair, monkeypatch):
    """The one moment in which they differ; both refuse to evaluate then (`upload_id` in test_order), and a push heals it."""
    pair.push(1)

    def break_off(channel, message):
        if message.WhichOneof("content") == "ready" and channel is pair.links[Role.A]:
            channel.close()

    with monkeypatch.context() as patch:
        before("send", break_off, patch)
        answers = pair.push(2)
    assert "link" in str(answers[Role.B])
    assert pair.held == [session(2), session(1)]
    answers = pair.push(3)
    assert answers[Role.A] == answers[Role.B]
    assert pair.held == [session(3)] * 2


@pytest.mark.parametrize("role", Role)
def test_a_busy_server_refuses_a_push_before_anything_is_begun(pair, role):
    service = pair.services[role]
    places = [service._turns.enter() for _ in range(service._turns.capacity)]
    context = Context("model-owner")
    with pytest.raises(Refused, match=f"server {role.value} is busy") as caught:
        service.PushModel(requests(role, 1), context)
    assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(context.trailing[RETRY_KEY]) > 0
    assert SessionId(session(1)) not in service._sessions
    assert pair.held == [None, None]
    for place in places:
        place.leave()
    assert len(set(pair.push(1).values())) == 1


@pytest.mark.parametrize("role", Role)
def test_a_stopping_server_refuses_a_push_before_anything_is_begun(pair, role):
    service = pair.services[role]
    service.drain()
    context = Context("model-owner")
    with pytest.raises(Refused, match=f"server {role.value} is shutting down, and nothing was begun") as caught:
        service.PushModel(requests(role, 1), context)
    assert caught.value.status is grpc.StatusCode.ABORTED
    assert int(context.trailing[RETRY_KEY]) > 0
    assert pair.held == [None, None]
    assert service.wait_idle(0)


@pytest.mark.parametrize("role", Role)
def test_a_push_that_waits_for_the_other_server_is_sent_away_by_one_that_stops(pair, role, monkeypatch):
    """A waits for B's stream, B for A's order: neither has the turn."""
    service = pair.services[role]
    waiting = threading.Event()
    if role is Role.A:
        take = service._meeting.take
        monkeypatch.setattr(service._meeting, "take", lambda *arguments: waiting.set() or take(*arguments))
    else:
        before("expect", lambda channel, content: waiting.set(), monkeypatch)
        # In memory there is no call to cancel: both ends are closed.
        monkeypatch.setattr(PeerChannel, "abort", lambda _: [end.close() for end in pair.links.values()])
    answers = []
    thread = threading.Thread(target=lambda: answers.append(pair.push(1, roles=[role])), daemon=True)
    thread.start()
    assert waiting.wait(SECONDS)
    service.drain()
    thread.join(SECONDS)
    assert f"server {role.value} is shutting down, and nothing was begun" in str(answers[0][role])
    assert pair.held == [None, None]
    assert service.wait_idle(0)


def test_server_a_without_a_server_b_says_so_and_stores_nothing(pair, monkeypatch):
    monkeypatch.setattr(service_module, "UPLOAD_SECONDS", 0.1)
    refused = pair.push(1, roles=[Role.A])[Role.A]
    assert refused.status is grpc.StatusCode.ABORTED
    assert "server B did not join the session" in str(refused)
    assert pair.held == [None, None]


def test_server_b_without_a_server_a_says_so_and_stores_nothing(pair, monkeypatch):
    def unreachable(session_id):
        raise PeerUnavailableError("server A at localhost:1: no connection")

    monkeypatch.setattr(pair.services[Role.B], "_dial", unreachable)
    refused = pair.push(1, roles=[Role.B])[Role.B]
    assert refused.status is grpc.StatusCode.ABORTED
    assert "no connection" in str(refused)
    assert pair.held == [None, None]


@pytest.mark.parametrize("role", Role)
def test_without_a_dealer_neither_stores(pair, role, monkeypatch):
    def unreachable(*_):
        raise PeerUnavailableError("the dealer at localhost:1: no connection")

    monkeypatch.setattr(pair.services[role]._evaluator._dealer, "claim_push", unreachable)
    answers = pair.push(1)
    assert "the dealer at localhost:1: no connection" in str(answers[role])
    assert isinstance(answers[role.peer], Refused)
    assert pair.held == [None, None]
