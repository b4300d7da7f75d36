"""What may happen once happens once, against live processes: sessions, material, openings; after a crash too."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import psutil
import pytest

from client import acquisition, edge, records
from client.config import HospitalConfig
from client.grants import issue_grant
from client.model_file import Model
from client.model_owner import push_model
from client.progress import Step
from client.records import ObjectRecord
from darkroom.simulation import Simulation
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.transport import open_channel
from protocols.engines import MASKED, session_plan
from protocols.errors import AccessDenied, DarkroomError, PeerUnavailableError
from protocols.identifiers import BootId, Role, SessionId
from security.false_server_b import CALL_SECONDS, EdgeCall, FalseServerB, denoise_request
from security.site_access import identity, kill, peer, restart
from tests.integration.conftest import NETWORK, picture


@pytest.fixture
def record(config: HospitalConfig) -> ObjectRecord:
    return acquisition.store(config, picture(), sigma=0.1)


def request(record: ObjectRecord, role: Role, session: SessionId) -> pb.DenoiseRequest:
    return denoise_request(record, role, session, "tiny")


@pytest.fixture
def fake_b(cluster: Simulation, record: ObjectRecord) -> Iterator[tuple[FalseServerB, EdgeCall, pb.PeerOrder]]:
    """A session of server A with us in place of server B, up to the evaluation order, accepted."""
    session = SessionId.fresh()
    call = EdgeCall(cluster, request(record, Role.A, session))
    fake = FalseServerB(cluster, session, NETWORK)
    fake.follow_masking()
    order = fake.accept(pb.PeerOrder.KIND_EVALUATE)
    yield fake, call, order
    fake.close()
    call.join()


def test_material_is_dealt_once_and_to_its_binding_only(fake_b, record: ObjectRecord) -> None:
    fake, _, order = fake_b
    for changes in ({"boot_b": str(BootId.fresh())}, {"boot_a": str(BootId.fresh())}, {"push_id": "1" * 32}):
        with pytest.raises(grpc.RpcError) as refused:
            fake.claim(order, record.height, record.width, **changes)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert len(fake.claim(order, record.height, record.width)) > 2
    with pytest.raises(grpc.RpcError) as refused:
        fake.claim(order, record.height, record.width)
    assert refused.value.code() in (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("second", "reason"), [(0, "repeated"), (2, "skipped")], ids=["the same opening again", "an opening too early"]
)
def test_server_a_accepts_an_opening_once_and_in_order(fake_b, record: ObjectRecord, second: int, reason: str) -> None:
    fake, call, order = fake_b
    plan = session_plan(MASKED, NETWORK, record.height, record.width)
    fake.claim(order, record.height, record.width)
    fake.ready()
    fake.opening(0, plan.opened_words(0))
    fake.opening(second, plan.opened_words(second))
    call.join()
    assert call.status is grpc.StatusCode.FAILED_PRECONDITION, reason
    assert "opening" in call.details


def test_a_session_id_is_used_once(cluster: Simulation, config: HospitalConfig, record: ObjectRecord) -> None:
    edge.denoise(config, record.object_id, model="tiny")
    session = SessionId.fresh()
    caller, callee = identity(cluster, "edge"), peer(cluster, "server-b")
    with open_channel(caller, callee) as channel:
        stub = rpc.ServerStub(channel)
        call = stub.Denoise(request(record, Role.B, session), timeout=CALL_SECONDS)
        next(call)
        call.cancel()
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.Denoise(request(record, Role.B, session), timeout=CALL_SECONDS))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "once" in refused.value.details()


def test_the_window_is_kept_by_the_servers(config: HospitalConfig, record: ObjectRecord) -> None:
    late = datetime.now(UTC) - timedelta(days=2)
    client = config.require_client()
    for grant, reason in (
        (issue_grant(client.signing_key, record.object_id, "edge", timedelta(days=1), now=late), "closed"),
        (issue_grant(client.signing_key, record.object_id, "another", timedelta(days=1)), "is for 'another'"),
        (record.grant[:-8] + "AAAAAAAA", "not valid"),
    ):
        records.save_record(config.objects, replace(record, grant=grant))
        with pytest.raises(AccessDenied, match=reason):
            edge.denoise(config, record.object_id, model="tiny")


def worker_of(server: int) -> int:
    """The process id of the worker that evaluates: a child of the nursery, which is the server's."""
    (nursery,) = psutil.Process(server).children()
    (worker,) = nursery.children()
    return worker.pid


def test_a_worker_killed_in_the_middle_is_a_sentence_and_the_next_session_works(
    cluster: Simulation, config: HospitalConfig
) -> None:
    record = acquisition.store(config, picture(768, 768), sigma=0.1)
    killed: list[int] = []

    def kill(step: Step) -> None:
        if step.who == "server B" and step.stage == "evaluating" and not killed:
            killed.append(worker_of(cluster.processes.names["server-b"]))
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(PeerUnavailableError, match="server [AB]"):
        edge.denoise(config, record.object_id, model="tiny", progress=kill)
    assert killed
    edge.denoise(config, record.object_id, model="tiny")


def test_after_a_crash_of_b_old_material_is_dead_and_weights_get_new_masks(
    cluster: Simulation, config: HospitalConfig, model: Model, record: ObjectRecord
) -> None:
    push_model(config, model)
    before = edge.denoise(config, record.object_id, model="tiny").push_id
    kill(cluster, "server-b")
    with pytest.raises(DarkroomError):
        edge.denoise(config, record.object_id, model="tiny")
    restart(cluster, "server-b")
    after = edge.denoise(config, record.object_id, model="tiny").push_id
    assert after != before
