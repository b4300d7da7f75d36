"""Messages too short, too long, repeated, out of order, from valid identities on each call: refused, and the server stays up."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import grpc
import pytest

from client import acquisition, edge
from client.config import HospitalConfig
from client.model_file import Model
from client.model_owner import list_models, push_model
from client.records import ObjectRecord
from darkroom.simulation import Simulation
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.exit_codes import ExitCode, exit_code_of
from proto.transport import MAX_MESSAGE_BYTES, open_channel
from protocols.errors import DarkroomError
from protocols.identifiers import ObjectId, Role, SessionId
from protocols.prg import fresh_key
from security.false_server_b import EdgeCall, FalseServerB, denoise_request
from security.site_access import identity, peer
from tests.integration.conftest import NETWORK, picture
from tests.integration.failing_site import wait_until

SECONDS = 60.0
WORDS = bytes(17 * 23 * 8)
REFUSED = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}

Upload = list[pb.StoreRequest]


def head(role: Role, **changes: object) -> pb.StoreRequest:
    values = {
        "object_id": str(ObjectId.fresh()),
        "size": pb.Size(height=17, width=23),
        "packing": pb.PACKING_KEYED,
        "seed": bytes(32) if role is Role.A else b"",
    }
    return pb.StoreRequest(header=pb.StoreHeader(**(values | changes)))


def words(content: bytes) -> pb.StoreRequest:
    return pb.StoreRequest(chunk=content)


UPLOADS: dict[str, tuple[Role, Callable[[], Upload]]] = {
    "A: nothing": (Role.A, lambda: []),
    "A: an empty message": (Role.A, lambda: [pb.StoreRequest()]),
    "A: words beside the seed": (Role.A, lambda: [head(Role.A), words(WORDS)]),
    "A: a seed too long": (Role.A, lambda: [head(Role.A, seed=bytes(33))]),
    "A: a header twice": (Role.A, lambda: [head(Role.A), head(Role.A)]),
    "B: nothing": (Role.B, lambda: []),
    "B: words before the header": (Role.B, lambda: [words(WORDS), head(Role.B)]),
    "B: no words": (Role.B, lambda: [head(Role.B)]),
    "B: too few words": (Role.B, lambda: [head(Role.B), words(WORDS[:-8])]),
    "B: too many words": (Role.B, lambda: [head(Role.B), words(WORDS), words(bytes(8))]),
    "B: a header in the middle": (Role.B, lambda: [head(Role.B), words(WORDS[:8]), head(Role.B), words(WORDS[8:])]),
    "B: a header at the end": (Role.B, lambda: [head(Role.B), words(WORDS), head(Role.B)]),
    "B: an empty chunk": (Role.B, lambda: [head(Role.B), words(b""), words(WORDS)]),
    "B: a message beyond the limit": (Role.B, lambda: [head(Role.B), words(bytes(MAX_MESSAGE_BYTES + 1))]),
}


def stores(cluster: Simulation) -> list[str]:
    return sorted(str(path) for letter in "ab" for path in cluster.site.root.rglob(f"{letter}.store/*/*"))


@pytest.mark.parametrize("what", UPLOADS)
def test_uploads_of_an_object(cluster: Simulation, what: str) -> None:
    role, messages = UPLOADS[what]
    before = stores(cluster)
    with open_channel(identity(cluster, "client"), peer(cluster, f"server-{role.value.lower()}")) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            rpc.ServerStub(channel).Store(iter(messages()), timeout=SECONDS)
        assert caught.value.code() in REFUSED, caught.value.details()
        wait_until(lambda: stores(cluster) == before, "a part of the upload is left")  # a refusal of gRPC's own comes first
        kept = head(role)
        rpc.ServerStub(channel).Store(iter([kept, *([words(WORDS)] if role is Role.B else [])]), timeout=SECONDS)
        with pytest.raises(grpc.RpcError) as caught:  # the same again
            rpc.ServerStub(channel).Store(iter([kept, *([words(WORDS)] if role is Role.B else [])]), timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        rpc.ServerStub(channel).Delete(pb.DeleteRequest(object_id=kept.header.object_id), timeout=SECONDS)
    assert stores(cluster) == before


def model_head(role: Role, **changes: object) -> pb.PushModelRequest:
    values = {
        "session_id": str(SessionId.fresh()),
        "name": "tiny",
        "network": NETWORK.to_json(),
        "seed": bytes(32) if role is Role.A else b"",
    }
    return pb.PushModelRequest(header=pb.PushModelHeader(**(values | changes)))


PUSHES: dict[str, tuple[Role, Callable[[], list[pb.PushModelRequest]]]] = {
    "A: nothing": (Role.A, lambda: []),
    "A: words beside the seed": (Role.A, lambda: [model_head(Role.A), pb.PushModelRequest(chunk=bytes(8))]),
    "A: a network that is none": (Role.A, lambda: [model_head(Role.A, network="{}")]),
    "A: a name that is a path": (Role.A, lambda: [model_head(Role.A, name="../tiny")]),
    "B: words before the header": (Role.B, lambda: [pb.PushModelRequest(chunk=bytes(8)), model_head(Role.B)]),
    "B: too few words": (Role.B, lambda: [model_head(Role.B), pb.PushModelRequest(chunk=bytes(8))]),
    "B: too many words": (Role.B, lambda: [model_head(Role.B), pb.PushModelRequest(chunk=bytes(1 << 20))]),
    "B: a header twice": (Role.B, lambda: [model_head(Role.B), model_head(Role.B)]),
}


@pytest.mark.parametrize("what", PUSHES)
def test_uploads_of_a_model_leave_the_older_one(cluster: Simulation, config: HospitalConfig, what: str) -> None:
    role, messages = PUSHES[what]
    before = stores(cluster)
    models = [(model.name, model.complete) for model in list_models(config)]
    with open_channel(identity(cluster, "model-owner"), peer(cluster, f"server-{role.value.lower()}")) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            rpc.ServerStub(channel).PushModel(iter(messages()), timeout=SECONDS)
    assert caught.value.code() in REFUSED, caught.value.details()
    assert stores(cluster) == before
    assert [(model.name, model.complete) for model in list_models(config)] == models


@pytest.fixture
def record(config: HospitalConfig) -> Iterator[ObjectRecord]:
    stored = acquisition.store(config, picture(), sigma=0.1)
    yield stored
    acquisition.delete(config, stored.object_id)


def accepted_wrongly(fake: FalseServerB) -> None:
    next(fake.incoming)
    fake.send(pb.PeerMessage(accept=pb.PeerAccept(order_digest=bytes(32), contribution=fresh_key())))


def accepted_without_a_contribution(fake: FalseServerB) -> None:
    next(fake.incoming)
    fake.send(pb.PeerMessage(accept=pb.PeerAccept(order_digest=bytes(32))))


def hello_again(fake: FalseServerB) -> None:
    fake.send(pb.PeerMessage(hello=pb.PeerHello(session_id=str(fake.session), boot_b=str(fake.boot))))


def opening_at_once(fake: FalseServerB) -> None:
    fake.opening(0, 4)


def ready_at_once(fake: FalseServerB) -> None:
    fake.ready()


def nothing_in_it(fake: FalseServerB) -> None:
    fake.send(pb.PeerMessage())


def ready_twice(fake: FalseServerB) -> None:
    fake.follow_masking()
    fake.accept(pb.PeerOrder.KIND_EVALUATE)
    fake.ready()
    fake.ready()


def masks_too_long(fake: FalseServerB) -> None:
    fake.accept(pb.PeerOrder.KIND_MASK)
    fake.opening(0, 1 << 16)


def masks_too_short(fake: FalseServerB) -> None:
    fake.accept(pb.PeerOrder.KIND_MASK)
    fake.opening(0, 1)


@pytest.mark.parametrize(
    "misbehave",
    [
        accepted_wrongly,
        accepted_without_a_contribution,
        hello_again,
        opening_at_once,
        ready_at_once,
        nothing_in_it,
        ready_twice,
        masks_too_long,
        masks_too_short,
    ],
)
def test_server_a_takes_nothing_from_b_but_what_is_due(
    cluster: Simulation, record: ObjectRecord, misbehave: Callable[[FalseServerB], None]
) -> None:
    session = SessionId.fresh()
    call = EdgeCall(cluster, denoise_request(record, Role.A, session, "tiny"))
    with FalseServerB(cluster, session, NETWORK) as fake:
        misbehave(fake)
        call.join()
        assert call.status is grpc.StatusCode.FAILED_PRECONDITION, call.details


def test_after_all_that_a_good_request_works(config: HospitalConfig, record: ObjectRecord) -> None:
    edge.denoise(config, record.object_id, model="tiny")


# --- a model at one server, or two models of one name ---


def leave_new_at_one(cluster: Simulation, config: HospitalConfig, model: Model, name: str, role: Role) -> None:
    """Push, then set the other server's disk back to what it was before: a push itself leaves no such thing."""
    letter = role.peer.value.lower()
    path = cluster.site.folder(f"server-{letter}") / f"{letter}.store" / "models" / f"{name}.share"
    before = path.read_bytes() if path.exists() else None
    push_model(config, replace(model, name=name))
    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)


@pytest.mark.parametrize("role", Role)
def test_a_model_that_one_server_has(
    cluster: Simulation, config: HospitalConfig, model: Model, record: ObjectRecord, role: Role
) -> None:
    name = f"only-{role.value.lower()}"
    leave_new_at_one(cluster, config, model, name, role)
    with pytest.raises(DarkroomError) as caught:
        edge.denoise(config, record.object_id, model=name)
    other = role.peer.value
    assert str(caught.value).startswith(f"server {other} at ")
    assert f"the model '{name}' is not on server {other}; push it with `darkroom model push`" in str(caught.value)
    assert exit_code_of(caught.value) is ExitCode.BAD_INPUT
    assert not next(entry for entry in list_models(config) if entry.name == name).complete


@pytest.mark.parametrize("role", Role)
def test_two_models_of_one_name(
    cluster: Simulation, config: HospitalConfig, model: Model, record: ObjectRecord, role: Role
) -> None:
    leave_new_at_one(cluster, config, model, "tiny", role)
    with pytest.raises(DarkroomError) as caught:
        edge.denoise(config, record.object_id, model="tiny")
    assert "They hold different uploads of this model: push it again with `darkroom model push`" in str(caught.value)
    assert exit_code_of(caught.value) is ExitCode.PROTOCOL
    push_model(config, model)
    edge.denoise(config, record.object_id, model="tiny")
