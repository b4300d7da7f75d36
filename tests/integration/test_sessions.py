"""What may happen once happens once, against live processes: sessions, material, openings; after a crash too."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from client import acquisition, edge, records
from client.config import HospitalConfig, load_config
from client.grants import issue_grant
from client.model_file import Model
from client.model_owner import push_model
from client.progress import Step
from client.records import ObjectRecord
from darkroom.settings_files import hospital_settings, server_settings
from darkroom.simulation import Simulation
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.transport import Peer, open_channel
from protocols.errors import AccessDenied, DarkroomError, PeerUnavailableError
from protocols.identifiers import BootId, Role, SessionId
from protocols.plan import plan_for
from protocols.prg import fresh_key
from server.order import order_digest
from tests.integration.conftest import NETWORK, picture
from tests.integration.test_transport import identity

SECONDS = 30.0


@pytest.fixture
def record(config: HospitalConfig) -> ObjectRecord:
    return acquisition.store(config, picture(), sigma=0.1)


def request(record: ObjectRecord, role: str, session: SessionId) -> pb.DenoiseRequest:
    return pb.DenoiseRequest(
        session_id=str(session),
        object_id=str(record.object_id),
        model="tiny",
        grant=record.grant,
        noise_key=record.keys.of(Role(role)),
        sigma_share=6554,
    )


def peer(cluster: Simulation, name: str, address: str) -> Peer:
    return Peer(name, address, cluster.site.certificate(name, held_by=name).read_bytes())


def dealer_address(cluster: Simulation) -> str:
    text = (cluster.site.folder("server-a") / "server.toml").read_text().split("[dealer]")[1]
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("address"))


class FakeB:
    """Server B's identity in our hands: dials A, accepts what A orders, and then misbehaves."""

    def __init__(self, cluster: Simulation, session: SessionId) -> None:
        self.session = session
        self._channel = open_channel(identity(cluster, "server-b"), peer(cluster, "server-a", cluster.addresses.server_a))
        self._dealer = open_channel(identity(cluster, "server-b"), peer(cluster, "dealer", dealer_address(cluster)))
        self.boot = BootId.fresh()
        self._condition = threading.Condition()
        self._out: list[pb.PeerMessage] = [pb.PeerMessage(hello=pb.PeerHello(session_id=str(session), boot_b=str(self.boot)))]
        self._done = False
        self.incoming = rpc.PeerLinkStub(self._channel).Follow(self._messages(), timeout=SECONDS)

    def _messages(self) -> Iterator[pb.PeerMessage]:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._out or self._done)
                if not self._out:
                    return
                message = self._out.pop(0)
            yield message

    def send(self, message: pb.PeerMessage) -> None:
        with self._condition:
            self._out.append(message)
            self._condition.notify()

    def accept(self) -> pb.PeerOrder:
        order = next(self.incoming).order
        accept = pb.PeerAccept(order_digest=order_digest(order), contribution=fresh_key())
        self.send(pb.PeerMessage(accept=accept))
        return order

    def follow_masking(self) -> None:
        """Masking orders come first, since our boot id is new; our summand of the deltas is zero."""
        order = self.accept()
        assert order.kind == pb.PeerOrder.KIND_MASK
        claim = pb.ClaimPushRequest(
            push_id=order.push_id, boot_a=order.boot_a, boot_b=order.boot_b, network_digest=NETWORK.digest
        )
        rpc.DealerStub(self._dealer).ClaimPush(claim, timeout=SECONDS)
        theirs = next(self.incoming).opening
        zeros = bytes(theirs.total_bytes)
        self.send(pb.PeerMessage(opening=pb.Opening(label=0, offset=0, total_bytes=len(zeros), chunk=zeros)))

    def claim(self, order: pb.PeerOrder, height: int, width: int, **changes: str) -> list[pb.MaterialChunk]:
        plan = plan_for(NETWORK, height, width)
        terms = {
            "material_id": order.material_id,
            "push_id": order.push_id,
            "boot_a": order.boot_a,
            "boot_b": order.boot_b,
        } | changes
        claim = pb.ClaimMaterialRequest(plan_digest=plan.digest, **terms)
        return list(rpc.DealerStub(self._dealer).ClaimMaterial(claim, timeout=SECONDS))

    def opening(self, label: int, words: int) -> None:
        chunk = bytes(8 * words)
        self.send(pb.PeerMessage(opening=pb.Opening(label=label, offset=0, total_bytes=len(chunk), chunk=chunk)))

    def close(self) -> None:
        with self._condition:
            self._done = True
            self._condition.notify()
        self.incoming.cancel()
        self._channel.close()
        self._dealer.close()


class EdgeCall:
    """The edge's call to A alone, in a thread of its own; its status when it ends."""

    def __init__(self, cluster: Simulation, record: ObjectRecord, session: SessionId) -> None:
        self._cluster, self._record, self._session = cluster, record, session
        self.status: grpc.StatusCode | None = None
        self.details = ""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        caller, callee = identity(self._cluster, "edge"), peer(self._cluster, "server-a", self._cluster.addresses.server_a)
        with open_channel(caller, callee) as channel:
            try:
                list(rpc.ServerStub(channel).Denoise(request(self._record, "A", self._session), timeout=SECONDS))
                self.status = grpc.StatusCode.OK
            except grpc.RpcError as error:
                self.status, self.details = error.code(), error.details()

    def join(self) -> None:
        self._thread.join(SECONDS)


@pytest.fixture
def fake_b(cluster: Simulation, record: ObjectRecord) -> Iterator[tuple[FakeB, EdgeCall, pb.PeerOrder]]:
    """A session of server A with us in place of server B, up to the evaluation order, accepted."""
    session = SessionId.fresh()
    call = EdgeCall(cluster, record, session)
    fake = FakeB(cluster, session)
    fake.follow_masking()
    order = fake.accept()
    assert order.kind == pb.PeerOrder.KIND_EVALUATE
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
    plan = plan_for(NETWORK, record.height, record.width)
    fake.claim(order, record.height, record.width)
    fake.send(pb.PeerMessage(ready=pb.PeerReady()))
    fake.opening(0, plan.opened_words(0))
    fake.opening(second, plan.opened_words(second))
    call.join()
    assert call.status is grpc.StatusCode.FAILED_PRECONDITION, reason
    assert "opening" in call.details


def test_a_session_id_is_used_once(cluster: Simulation, config: HospitalConfig, record: ObjectRecord) -> None:
    edge.denoise(config, record.object_id, model="tiny")
    session = SessionId.fresh()
    caller, callee = identity(cluster, "edge"), peer(cluster, "server-b", cluster.addresses.server_b)
    with open_channel(caller, callee) as channel:
        stub = rpc.ServerStub(channel)
        call = stub.Denoise(request(record, "B", session), timeout=SECONDS)
        next(call)
        call.cancel()
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.Denoise(request(record, "B", session), timeout=SECONDS))
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
    """The process id of a server's warm worker; any of the server's threads may have started it."""
    lists = Path(f"/proc/{server}/task").glob("*/children")
    (worker,) = [int(child) for children in lists for child in children.read_text().split()]
    return worker


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
    site, addresses, processes = cluster.site, cluster.addresses, cluster.processes
    os.kill(processes.names["server-b"], signal.SIGKILL)
    with pytest.raises(DarkroomError):
        edge.denoise(config, record.object_id, model="tiny")
    settings = server_settings(site, "server-b", addresses.server_b, dealer=dealer_address(cluster), leader=addresses.server_a)
    log, ready = site.logs / "server-b.log", site.folder("server-b") / "b.ready"
    assert processes.start("server-b", "server_b", settings, log, ready) == addresses.server_b
    hospital_settings(site, addresses)
    after = edge.denoise(load_config(cluster.hospital_file), record.object_id, model="tiny").push_id
    assert after != before
