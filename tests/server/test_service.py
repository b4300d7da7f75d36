"""A server's calls without sockets: who may call, what is refused before a peer is troubled, and what one identity can take."""

import threading
from datetime import timedelta

import grpc
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.grants import issue_grant
from client.keys import SigningKey
from proto import darkroom_pb2 as pb
from proto.transport import Identity, Peer
from protocols import ring
from protocols.errors import AccessDenied
from protocols.identifiers import ObjectId, Role
from server import service as service_module
from server.config import WAITING, ServerConfig
from server.limits import CALL_LIMITS, FOLLOWER_SLACK, call_limits, call_threads
from server.service import ServerService
from tests.proto.test_transport import certificate
from tests.protocols.every_layer import EVERY_LAYER
from tests.server.fake_workers import FakeWorkers

HOSPITAL = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OBJECT = ObjectId("a" * 32)
IDENTITIES = ("client", "edge", "model-owner", "server-a", "server-b", "")
SECONDS = 20


class Refused(Exception):  # noqa: N818
    def __init__(self, status, details):
        super().__init__(details)
        self.status = status


class Context:
    """What the service asks of gRPC."""

    def __init__(self, name):
        self.name = name
        self.callbacks = []
        self.active = True
        self.trailing = {}

    def is_active(self):
        return self.active

    def set_trailing_metadata(self, pairs):
        self.trailing.update(pairs)

    def abort(self, status, details):
        raise Refused(status, details)

    def add_callback(self, callback):
        self.callbacks.append(callback)
        return True

    def cancel(self):
        """The call is broken off."""


class ByName:
    """Callers who say who they are."""

    def require(self, context, *allowed):
        if context.name not in allowed:
            raise AccessDenied(f"not {context.name}")
        return context.name


@pytest.fixture(scope="module")
def peer():
    return Peer("the dealer", "localhost:1", certificate("dealer"))  # never called: gRPC connects on the first call


@pytest.fixture(params=Role)
def role(request):
    return request.param


@pytest.fixture
def service(role, tmp_path, peer):
    return make_service(role, tmp_path, peer)


def make_service(role, folder, peer):
    identity = Identity(peer.certificate, b"no key: no handshake is made here")
    leader = peer if role is Role.B else None
    config = ServerConfig(role, identity, folder, HOSPITAL.public_key(), peer, leader)
    return ServerService(config, ByName(), FakeWorkers())


def header(role, **changes):
    seed = bytes(32) if role is Role.A else b""
    values = {"object_id": str(OBJECT), "size": pb.Size(height=8, width=9), "packing": pb.PACKING_KEYED, "seed": seed}
    return pb.StoreHeader(**(values | changes))


def upload(role, **changes):
    yield pb.StoreRequest(header=header(role, **changes))
    if role is Role.B:
        yield pb.StoreRequest(chunk=ring.to_bytes(torch.zeros(72, dtype=torch.int64)))


def store(service, role, context=None, **changes):
    return service.Store(upload(role, **changes), context or Context("client"))


def grant(object_id=OBJECT, edge="edge"):
    return issue_grant(SigningKey(HOSPITAL), object_id, edge, timedelta(hours=1))


def request(**changes):
    values = {"session_id": "1" * 32, "object_id": str(OBJECT), "model": "base", "grant": grant(), "noise_key": bytes(32)}
    return pb.DenoiseRequest(**(values | changes))


def denoise(service, context=None, **changes):
    return list(service.Denoise(request(**changes), context or Context("edge")))


def model_header(role, **changes):
    seed = bytes(32) if role is Role.A else b""
    values = {"session_id": "2" * 32, "name": "base", "network": EVERY_LAYER.to_json(), "seed": seed}
    return pb.PushModelHeader(**(values | changes))


# --- who may call ---


CALLS = {
    "Store": ({"client"}, lambda s, c: s.Store(iter([pb.StoreRequest()]), c)),
    "Delete": ({"client"}, lambda s, c: s.Delete(pb.DeleteRequest(object_id=str(OBJECT)), c)),
    "Denoise": ({"edge"}, lambda s, c: list(s.Denoise(request(), c))),
    "PushModel": ({"model-owner"}, lambda s, c: s.PushModel(iter([pb.PushModelRequest()]), c)),
    "ListModels": ({"client", "edge", "model-owner"}, lambda s, c: s.ListModels(pb.ListModelsRequest(), c)),
    "Follow": ({"server-b"}, lambda s, c: list(s.Follow(iter([pb.PeerMessage()]), c))),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", IDENTITIES)
def test_each_call_is_for_its_identities_only(service, call, name):
    allowed, action = CALLS[call]
    try:
        action(service, Context(name))
        status = None
    except Refused as refused:
        status = refused.status
    assert (status is not grpc.StatusCode.PERMISSION_DENIED) == (name in allowed)


def test_a_caller_of_another_role_takes_no_place_and_burns_no_session(service):
    for _ in range(100):
        with pytest.raises(Refused, match="not client"):
            denoise(service, Context("client"))
    with pytest.raises(Refused, match="is not stored"):  # the same session id, from the edge: not seen before
        denoise(service)


def test_server_b_has_no_followers(tmp_path, peer):
    with pytest.raises(Refused, match="server B has no followers") as caught:
        CALLS["Follow"][1](make_service(Role.B, tmp_path, peer), Context("server-b"))
    assert caught.value.status is grpc.StatusCode.UNIMPLEMENTED


# --- images ---


def test_an_object_is_stored_once(service, role):
    store(service, role)
    with pytest.raises(Refused, match="stored already") as caught:
        store(service, role, packing=pb.PACKING_BLIND)
    assert caught.value.status is grpc.StatusCode.INVALID_ARGUMENT
    service.Delete(pb.DeleteRequest(object_id=str(OBJECT)), Context("client"))
    store(service, role)


def test_an_upload_that_the_client_has_left_is_not_kept(service, role):
    """The client asks for its deletion before it is whole, is told that nothing is here, and never asks again."""
    context = Context("client")
    context.active = False
    with pytest.raises(Refused, match="it is deleted"):
        store(service, role, context)
    assert service._objects.names() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"object_id": "../a"},
        {"object_id": ""},
        {"size": pb.Size(height=7, width=9)},
        {"size": pb.Size(height=9, width=0)},
        {"size": pb.Size(height=1 << 14, width=1 << 14)},
        {"size": pb.Size(height=2**32 - 1, width=2**32 - 1)},
        {"packing": pb.PACKING_UNSPECIFIED},
        {"packing": 9},
        {"seed": bytes(31)},
        {"seed": bytes(33)},
    ],
)
def test_objects_that_cannot_be(service, role, changes):
    with pytest.raises(Refused) as caught:
        store(service, role, **changes)
    assert caught.value.status in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
    assert service._objects.names() == []


def test_each_server_takes_its_own_form_of_a_share(service, role):
    """A share in words at A, or a seed at B, would be kept beside what the other server has: refused."""
    other = b"" if role is Role.A else bytes(32)
    with pytest.raises(Refused, match="server A takes a seed of 32 bytes, server B words"):
        store(service, role, seed=other)


# --- requests that are refused before a peer is troubled ---


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"grant": ""}, grpc.StatusCode.PERMISSION_DENIED, "not valid"),
        ({"grant": grant(ObjectId("b" * 32))}, grpc.StatusCode.PERMISSION_DENIED, "another object"),
        ({"grant": grant(edge="edge-2")}, grpc.StatusCode.PERMISSION_DENIED, "not for 'edge'"),
        ({"object_id": "x"}, grpc.StatusCode.FAILED_PRECONDITION, "ObjectId must be"),
        ({"session_id": "x"}, grpc.StatusCode.FAILED_PRECONDITION, "SessionId must be"),
        ({"noise_key": b""}, grpc.StatusCode.FAILED_PRECONDITION, "without a noise key"),
        ({"noise_key": bytes(31)}, grpc.StatusCode.FAILED_PRECONDITION, "without a noise key"),
        ({}, grpc.StatusCode.NOT_FOUND, "'base' is not on server"),
        ({"model": "../base"}, grpc.StatusCode.INVALID_ARGUMENT, "is not a name"),
    ],
)
def test_requests_of_the_edge(service, role, monkeypatch, changes, status, message):
    monkeypatch.setattr(service, "_lead", None)
    monkeypatch.setattr(service, "_follow", None)
    store(service, role)
    with pytest.raises(Refused, match=message) as caught:
        denoise(service, **changes)
    assert caught.value.status is status


def test_a_blind_object_is_opened_without_a_key(service, role):
    store(service, role, packing=pb.PACKING_BLIND)
    with pytest.raises(Refused, match="blind objects are opened without a noise key"):
        denoise(service)


def test_a_grant_comes_before_what_is_stored(service):
    """Who has no grant does not learn whether an object is here."""
    with pytest.raises(Refused) as caught:
        denoise(service, grant=grant(ObjectId("b" * 32)))
    assert caught.value.status is grpc.StatusCode.PERMISSION_DENIED


def test_the_window_must_still_be_open_when_the_turn_comes(service, role, monkeypatch):
    store(service, role)
    monkeypatch.setattr(service._models, "description", lambda _: None)
    task, _ = service._checked(request(), "edge")
    assert len(task.image_share()) > 0

    def closed(*_, **__):
        raise AccessDenied("the window has closed")

    monkeypatch.setattr(service_module, "verify_grant", closed)
    with pytest.raises(AccessDenied):
        task.image_share()


def test_a_session_is_used_once_even_when_it_failed(service):
    for message in ("is not stored", "was seen before; sessions are used once"):
        with pytest.raises(Refused, match=message):
            denoise(service)


def test_a_push_and_an_evaluation_share_no_session(service, role):
    with pytest.raises(Refused, match="is not stored"):
        denoise(service, session_id="2" * 32)
    with pytest.raises(Refused, match="was seen before"):
        service.PushModel(iter([pb.PushModelRequest(header=model_header(role))]), Context("model-owner"))


def test_remembered_sessions_are_bounded(service, monkeypatch):
    monkeypatch.setattr(service_module, "REMEMBERED_SESSIONS", 5)
    for number in range(20):
        with pytest.raises(Refused, match="is not stored"):
            denoise(service, session_id=f"{number:032x}")
    assert len(service._sessions) == 5
    with pytest.raises(Refused, match="was seen before"):
        denoise(service, session_id=f"{19:032x}")


# --- what one identity can take ---


def test_uploads_that_stall_leave_room_for_others(service, role):
    release, started = threading.Event(), threading.Barrier(CALL_LIMITS["client"] + 1)

    def stalled():
        started.wait(SECONDS)
        release.wait(SECONDS)
        yield from ()

    def call():
        with pytest.raises(Refused):
            service.Store(stalled(), Context("client"))

    threads = [threading.Thread(target=call) for _ in range(CALL_LIMITS["client"])]
    for thread in threads:
        thread.start()
    started.wait(SECONDS)
    with pytest.raises(Refused, match="8 calls of client under way; try again") as caught:
        store(service, role)
    assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(Refused, match="is not stored"):
        denoise(service)  # the edge has places of its own
    release.set()
    for thread in threads:
        thread.join(SECONDS)
    store(service, role)


def test_every_thread_of_a_server_cannot_be_taken():
    """Each place is a thread; each session of B's is one at A besides; health checks and refusals need some."""
    for waiting in (0, 8, 256):
        limits = call_limits(waiting)
        followers = limits["edge"] + limits["model-owner"]
        assert limits["edge"] >= waiting + 1 + FOLLOWER_SLACK
        assert sum(limits.values()) + followers < call_threads(waiting)


def test_places_are_given_back_after_failures(service):
    for number in range(3 * call_limits(WAITING)["edge"]):
        with pytest.raises(Refused, match="is not stored"):
            denoise(service, session_id=f"{number:032x}")


def test_a_call_that_the_edge_abandons_gives_its_place_back(service, role, monkeypatch):
    def waiting(task, stop, place):
        yield "waiting"
        raise AssertionError("nobody listens")

    monkeypatch.setattr(service, "_lead", waiting)
    monkeypatch.setattr(service, "_follow", waiting)
    monkeypatch.setattr(service._models, "description", lambda name: None)
    store(service, role)
    for number in range(3 * call_limits(WAITING)["edge"]):
        answers = service.Denoise(request(session_id=f"{number:032x}"), Context("edge"))
        assert next(answers).stage == "waiting"
        del answers  # as gRPC does when the edge has gone


# --- B's streams at A ---


def test_a_stream_of_b_waits_and_leaves_with_its_call(tmp_path, peer):
    service = make_service(Role.A, tmp_path, peer)
    hello = pb.PeerMessage(hello=pb.PeerHello(session_id="1" * 32, boot_b="b" * 32))
    context = Context("server-b")
    follow = service.Follow(iter([hello]), context)
    stream = threading.Thread(target=lambda: list(follow))
    stream.start()
    assert service._meeting.take(service_module.SessionId("1" * 32), SECONDS).boot == "b" * 32
    for callback in context.callbacks:
        callback()
    stream.join(SECONDS)
    assert not stream.is_alive()


class Stream:
    """A Follow of server B, in a thread as gRPC has it."""

    def __init__(self, service, number):
        self.session = service_module.SessionId(f"{number:032x}")
        hello = pb.PeerMessage(hello=pb.PeerHello(session_id=str(self.session), boot_b="b" * 32))
        follow = service.Follow(iter([hello]), Context("server-b"))
        self.thread = threading.Thread(target=lambda: list(follow), daemon=True)
        self.thread.start()


def test_a_stopping_server_waits_for_a_stream_that_has_a_session_and_sends_the_others_away(tmp_path, peer):
    service = make_service(Role.A, tmp_path, peer)
    claimed, waiting = Stream(service, 1), Stream(service, 2)
    channel = service._meeting.take(claimed.session, SECONDS)
    with service._meeting._condition:
        assert service._meeting._condition.wait_for(lambda: waiting.session in service._meeting._arrived, SECONDS)
    service.drain()
    waiting.thread.join(SECONDS)
    assert not waiting.thread.is_alive()
    assert not service.wait_idle(0)  # our last opening may still be on its way to B
    channel.close()
    assert service.wait_idle(SECONDS)
    hello = pb.PeerMessage(hello=pb.PeerHello(session_id="3" * 32, boot_b="b" * 32))
    with pytest.raises(Refused, match="server A is shutting down, and nothing was begun"):
        list(service.Follow(iter([hello]), Context("server-b")))


def test_a_stream_that_comes_between_admission_and_the_end_is_sent_away_too(tmp_path, peer):
    service = make_service(Role.A, tmp_path, peer)
    service._meeting.drain()
    late = Stream(service, 1)
    late.thread.join(SECONDS)
    assert not late.thread.is_alive()
    assert service.wait_idle(0)


def test_a_stream_without_a_session_is_refused(tmp_path, peer):
    service = make_service(Role.A, tmp_path, peer)
    with pytest.raises(Refused, match="SessionId must be 32"):
        list(service.Follow(iter([pb.PeerMessage(ready=pb.PeerReady())]), Context("server-b")))
