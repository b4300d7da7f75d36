"""Mutual TLS with pinned peers, against live processes: whoever is not the one expected is refused."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from darkroom.provision import certificate_for
from darkroom.simulation import Simulation
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.transport import Identity, Peer, open_channel

SECONDS = 10.0
OBJECT = "0" * 32


def identity(cluster: Simulation, name: str) -> Identity:
    site = cluster.site
    return Identity(site.certificate(name, held_by=name).read_bytes(), site.private_key(name).read_bytes())


def made_up(name: str, made: datetime) -> Identity:
    """A certificate that names the role rightly, with a key of our own."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Identity(certificate_for(name, key, made), private)


def server_a(cluster: Simulation, pinned: bytes | None = None) -> Peer:
    certificate = cluster.site.certificate("server-a", held_by="server-a").read_bytes()
    return Peer("server A", cluster.addresses.server_a, pinned or certificate)


def health(caller: Identity, peer: Peer) -> int:
    with open_channel(caller, peer) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status)


def test_health_answers_a_known_caller(cluster: Simulation) -> None:
    assert health(identity(cluster, "edge"), server_a(cluster)) == health_pb2.HealthCheckResponse.SERVING


CALLS: dict[str, Callable[[grpc.Channel], object]] = {
    "Store": lambda channel: rpc.ServerStub(channel).Store(iter([pb.StoreRequest()]), timeout=SECONDS),
    "Delete": lambda channel: rpc.ServerStub(channel).Delete(pb.DeleteRequest(object_id=OBJECT), timeout=SECONDS),
    "Denoise": lambda channel: list(rpc.ServerStub(channel).Denoise(pb.DenoiseRequest(session_id=OBJECT), timeout=SECONDS)),
    "PushModel": lambda channel: rpc.ServerStub(channel).PushModel(iter([pb.PushModelRequest()]), timeout=SECONDS),
    "Follow": lambda channel: list(rpc.PeerLinkStub(channel).Follow(iter([pb.PeerMessage()]), timeout=SECONDS)),
    "Describe": lambda channel: rpc.PartyStub(channel).Describe(pb.DescribeRequest(), timeout=SECONDS),
    "ListModels": lambda channel: rpc.ServerStub(channel).ListModels(pb.ListModelsRequest(), timeout=SECONDS),
}
ALLOWED = {
    "Store": {"client"},
    "Delete": {"client"},
    "Denoise": {"edge"},
    "PushModel": {"model-owner"},
    "Follow": {"server-b"},
    "Describe": {"client", "edge", "model-owner", "server-b"},
    "ListModels": {"client", "edge", "model-owner"},
}


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("caller", ["client", "edge", "model-owner", "server-b"])
def test_a_valid_certificate_of_the_wrong_role_is_refused(cluster: Simulation, call: str, caller: str) -> None:
    with open_channel(identity(cluster, caller), server_a(cluster)) as channel:
        try:
            CALLS[call](channel)
            status = grpc.StatusCode.OK
        except grpc.RpcError as error:
            status = error.code()
    assert (status is not grpc.StatusCode.PERMISSION_DENIED) is (caller in ALLOWED[call])


@pytest.mark.parametrize("caller", ["client", "edge", "model-owner"])
def test_the_dealer_completes_no_handshake_with_the_hospital(cluster: Simulation, caller: str) -> None:
    site = cluster.site
    address = next(
        line.split('"')[1]
        for line in (site.folder("server-a") / "server.toml").read_text().split("[dealer]")[1].splitlines()
        if line.startswith("address")
    )
    dealer = Peer("dealer", address, site.certificate("dealer", held_by="dealer").read_bytes())
    with pytest.raises(grpc.RpcError) as refused:
        health(identity(cluster, caller), dealer)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_foreign_certificate_with_the_right_name_is_refused(cluster: Simulation) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        health(made_up("edge", datetime.now(UTC)), server_a(cluster))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_shows_another_certificate_is_not_spoken_to(cluster: Simulation) -> None:
    pinned = cluster.site.certificate("server-b", held_by="server-b").read_bytes()
    with pytest.raises(grpc.RpcError) as refused:
        health(identity(cluster, "edge"), server_a(cluster, pinned))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_an_expired_pin_is_refused(cluster: Simulation) -> None:
    expired = made_up("server-a", datetime.now(UTC) - timedelta(days=1000))
    with pytest.raises(grpc.RpcError) as refused:
        health(identity(cluster, "edge"), server_a(cluster, expired.certificate))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
