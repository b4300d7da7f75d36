"""No authority is accepted on any link: a certificate that a pinned identity has signed for another name opens nothing.

The links between A and B and to the model owner in particular: whoever holds the hospital's keys cannot stand for server B, for
server A or for the model owner. The twin drops the rule that a role's certificate signs nothing, and is then fooled.
"""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from darkroom.provision import certificate_for
from proto.transport import Identity, Peer, listener_credentials, listener_options, open_channel

SECONDS = 20.0
NOW = datetime.now(UTC)
PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Party:
    """An identity whose key is still at hand."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes

    @property
    def identity(self) -> Identity:
        return Identity(self.certificate, private(self.key))


def private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def party(name: str) -> Party:
    key = ec.generate_private_key(ec.SECP256R1())
    return Party(key, certificate_for(name, key, NOW))


def authority(name: str) -> Party:
    """The twin: the same identity, but with a certificate that may sign others."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    return Party(key, signed(name, key, subject, key, ca=True))


def signed(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey, *, ca: bool = False
) -> bytes:
    certificate = (
        x509.CertificateBuilder()
        .subject_name(issuer if ca else x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, f"{name}, vouched for")]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(minutes=5))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(PEM)


def vouched_for(name: str, by: Party) -> Identity:
    """An identity of this name, in the word of another party."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = signed(name, key, x509.load_pem_x509_certificate(by.certificate).subject, by.key)
    return Identity(leaf + by.certificate, private(key))


@contextmanager
def listening(identity: Identity, allowed: list[bytes]) -> Iterator[str]:
    """A listener as every party has it, with the health service alone."""
    server = grpc.server(futures.ThreadPoolExecutor(2), options=listener_options())
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_secure_port("127.0.0.1:0", listener_credentials(identity, allowed))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def answers(caller: Identity, peer: Peer) -> bool:
    with open_channel(caller, peer) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    return True


@pytest.mark.parametrize("name", ["server-b", "model-owner"])
@pytest.mark.parametrize("hospital", ["client", "edge"])
def test_server_a_takes_nobody_on_the_hospitals_word(name: str, hospital: str) -> None:
    server_a, other = party("server-a"), party(name)
    for voucher, fooled in ((party(hospital), False), (authority(hospital), True)):
        with listening(server_a.identity, [voucher.certificate, other.certificate]) as address:
            peer = Peer("server A", address, server_a.certificate)
            assert answers(other.identity, peer)
            assert answers(vouched_for(name, voucher), peer) is fooled


@pytest.mark.parametrize("hospital", ["client", "edge"])
def test_server_b_and_the_model_owner_take_no_server_a_but_the_pinned_one(hospital: str) -> None:
    server_a, server_b = party("server-a"), party("server-b")
    voucher = party(hospital)
    with listening(vouched_for("server-a", voucher), [server_b.certificate]) as address:
        assert not answers(server_b.identity, Peer("server A", address, server_a.certificate))
    twin = authority("server-a")
    with listening(vouched_for("server-a", twin), [server_b.certificate]) as address:
        assert answers(server_b.identity, Peer("server A", address, twin.certificate))
