"""A hospital in a temporary folder, and two fake servers without sockets: their network is the identity."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import grpc
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client import acquisition, doctor, edge, model_owner
from client.both_servers import Connection
from client.config import HospitalConfig, load_config
from client.keys import create_noise_key, create_signing_key
from client.origin import IDENTITY, Kind, Origin, SourceImage
from proto import darkroom_pb2 as pb
from proto.conversion import packing_from_wire
from protocols.identifiers import PushId, Role
from protocols.packing import PackingMode, unpack_share
from protocols.ring import from_bytes, to_bytes
from protocols.sharing import expand_seed

PUSH = PushId("5" * 32)
TOML = """
[servers.a]
address = "127.0.0.1:1"
certificate = "certs/server-a.crt"
[servers.b]
address = "127.0.0.1:2"
certificate = "certs/server-b.crt"
[client]
certificate = "certs/client.crt"
private_key = "client.key"
noise_key = "noise.key"
signing_key = "signing.key"
[edge]
certificate = "certs/edge.crt"
private_key = "edge.key"
[model_owner]
certificate = "certs/model-owner.crt"
private_key = "model-owner.key"
[hospital]
objects = "objects"
window = "24h"
edge_name = "edge"
"""


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a unit test opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def write_identity(folder: Path, name: str, *, days: int = 1) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certs").mkdir(exist_ok=True)
    (folder / "certs" / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path = folder / f"{name}.key"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.chmod(0o600)


@pytest.fixture
def identity_writer():
    return write_identity


@pytest.fixture
def hospital(tmp_path: Path) -> HospitalConfig:
    for name in ("server-a", "server-b", "client", "edge", "model-owner"):
        write_identity(tmp_path, name)
    create_noise_key(tmp_path / "noise.key")
    create_signing_key(tmp_path / "signing.key", tmp_path / "certs" / "grant.pub")
    (tmp_path / "hospital.toml").write_text(TOML)
    return load_config(tmp_path / "hospital.toml")


class Refused(grpc.RpcError):
    """What a stub raises."""

    def __init__(self, status: grpc.StatusCode, details: str = "on purpose") -> None:
        super().__init__()
        self._status, self._details = status, details

    def code(self):
        return self._status

    def details(self):
        return self._details


@dataclass
class FakeStream:
    """A response stream that remembers how it ended."""

    replies: Iterator[pb.DenoiseReply]
    exhausted: bool = False
    cancelled: bool = False

    def __iter__(self):
        yield from self.replies
        self.exhausted = True

    def cancel(self):
        self.cancelled = self.cancelled or not self.exhausted


@dataclass
class FakePush:
    """A call that is waited for: what it gives, or how it fails."""

    reply: pb.PushModelReply | pb.StoreReply | Refused

    def result(self):
        if isinstance(self.reply, Refused):
            raise self.reply
        return self.reply

    def cancel(self):
        pass


@dataclass
class FakeServer:
    """One server: keeps shares, and evaluates the identity. `fail` names calls that are refused, and how."""

    role: Role
    objects: dict[str, tuple[pb.StoreHeader, bytes]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    requests: list[pb.DenoiseRequest] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    pushed: list[tuple[pb.PushModelHeader, bytes]] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)  # every message about objects, in order
    fail: dict[str, Refused] = field(default_factory=dict)
    tamper: object = None  # called with this server's output share
    push_id: PushId = PUSH
    channel: grpc.Channel = field(default_factory=lambda: Mock(spec=grpc.Channel))

    @property
    def stub(self):
        return self

    @property
    def PushModel(self):
        return self

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        if call in self.fail:
            raise self.fail[call]

    def ListModels(self, _request, timeout):
        self._enter("ListModels")
        return pb.ListModelsReply()

    @property
    def Store(self):
        return Mock(future=self._store)

    def _store(self, requests, timeout):
        if "Store" in self.fail:
            self.calls.append("Store")
            return FakePush(self.fail["Store"])
        self._enter("Store")
        messages = list(requests)
        self.received += [message.SerializeToString() for message in messages]
        header = messages[0].header
        self.objects[header.object_id] = (header, b"".join(message.chunk for message in messages[1:]))
        return FakePush(pb.StoreReply())

    def Delete(self, request, timeout):
        self._enter("Delete")
        self.received.append(request.SerializeToString())
        if self.objects.pop(request.object_id, None) is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, "not stored here")

    def future(self, requests, timeout):
        self._enter("PushModel")
        messages = list(requests)
        self.pushed.append((messages[0].header, b"".join(message.chunk for message in messages[1:])))
        return FakePush(self.fail.get("push-end", pb.PushModelReply(push_id=str(self.push_id))))

    def Denoise(self, request, timeout):
        self.calls.append("Denoise")
        self.requests.append(request)
        self.received.append(request.SerializeToString())
        stream = FakeStream(self._evaluate(request))
        self.streams.append(stream)
        return stream

    def _evaluate(self, request):
        yield pb.DenoiseReply(stage="evaluating")
        if "Denoise" in self.fail:
            raise self.fail["Denoise"]
        header, words = self.objects[request.object_id]
        shape = (1, header.size.height, header.size.width)
        packing = packing_from_wire(header.packing)
        share = expand_seed(header.seed, shape) if self.role is Role.A else from_bytes(words, shape)
        blind = packing is PackingMode.BLIND
        output = share if blind else unpack_share(share, request.noise_key, packing, header.packing_sigma)
        blur = torch.full(shape, 12345, dtype=torch.int64)  # stands for the re-randomisation
        output = output + blur if self.role is Role.A else output - blur
        if self.tamper is not None:
            output = self.tamper(output)
        yield pb.DenoiseReply(
            header=pb.ResultHeader(
                channels=1,
                size=header.size,
                cost=pb.Cost(online_seconds=1.0 + self.role.party, rounds=3, sent_bytes=7, dealer_peak_rss_bytes=9),
                push_id=str(self.push_id),
                engine="fake",
                packed_seed=header.seed if blind else b"",
            )
        )
        yield pb.DenoiseReply(chunk=to_bytes(output))
        if blind and self.role is Role.B:
            yield pb.DenoiseReply(packed_chunk=words)


@pytest.fixture
def servers(monkeypatch) -> dict[Role, FakeServer]:
    fakes = {role: FakeServer(role) for role in Role}

    @contextmanager
    def connect(_config, _identity):
        yield {
            role: Connection(role, fake.channel, fake.stub, f"{role.value.lower()}.example:7600") for role, fake in fakes.items()
        }

    for module in (acquisition, edge, model_owner, doctor):
        monkeypatch.setattr(module, "connect", connect)
    return fakes


@pytest.fixture
def refused():
    return Refused


@pytest.fixture
def image() -> SourceImage:
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    pixels = torch.round((rows + columns) / 50.0 * 65536).double() / 65536
    return SourceImage(pixels, Origin(Kind.NPY, IDENTITY, 64, "doe^john.npy", None))
