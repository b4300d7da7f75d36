"""A wrong, foreign or expired certificate, and A's shown by B, on real listeners: a sentence, exit code 4, nothing sent."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client import acquisition
from client.config import load_config
from darkroom.provision import Site, provision
from darkroom.settings_files import Addresses, hospital_settings
from proto.addresses import SEPARATOR
from proto.exit_codes import ExitCode, exit_code_of
from proto.status import calling
from proto.transport import Identity, Peer, listener_credentials, listener_options, open_channel
from protocols.errors import CertificateError, ConfigurationError, DarkroomError, PeerUnavailableError
from server.dealer_client import Boots, DealerClient
from tests.integration.conftest import NETWORK, picture
from tests.integration.test_transport import made_up

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=1000)
Listen = Callable[[Identity, bytes], str]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start a listener with this identity that knows this caller; its address."""
    servers: list[grpc.Server] = []

    def start(identity: Identity, caller: bytes) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(2), options=listener_options())
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        port = server.add_secure_port("127.0.0.1:0", listener_credentials(identity, [caller]))
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return provision(tmp_path_factory.mktemp("site"))


def own(site: Site, name: str) -> Identity:
    return Identity(site.certificate(name, held_by=name).read_bytes(), site.private_key(name).read_bytes())


def stored(site: Site, address: str) -> DarkroomError:
    """How `store` fails where this address is server A's."""
    hospital_settings(site, Addresses(address, "127.0.0.1:1"))
    with pytest.raises(DarkroomError) as caught:
        acquisition.store(load_config(site.root / "client.toml"), picture(), sigma=0.05)
    assert not list(site.objects.glob("*.json"))
    return caught.value


OTHER = "it shows another certificate than the one that is pinned for it here: check the address"
SHOWN = {
    "a foreign certificate of the same name": (lambda site: made_up("server-a", NOW), OTHER),
    "that of server B": (lambda site: own(site, "server-b"), OTHER),
    "an expired one": (lambda site: made_up("server-a", LONG_AGO), OTHER),
}


@pytest.mark.parametrize("what", SHOWN)
def test_server_a_shows_another_certificate(site: Site, listen: Listen, what: str) -> None:
    shown, sentence = SHOWN[what]
    address = listen(shown(site), own(site, "client").certificate)
    error = stored(site, address)
    assert str(error).startswith(f"server A at {address}, asked for its models: {sentence}")
    assert exit_code_of(error) is ExitCode.CONFIGURATION


@pytest.fixture
def closed() -> Iterator[list[str]]:
    """Two addresses at which nobody listens."""
    with socket.socket() as one, socket.socket() as two:
        for reserved in (one, two):
            reserved.bind(("127.0.0.1", 0))
        yield [f"127.0.0.1:{reserved.getsockname()[1]}" for reserved in (one, two)]


def asked_for_health(site: Site, *addresses: str) -> int:
    pinned = site.certificate("server-a", held_by="client").read_bytes()
    peer = Peer("server A", SEPARATOR.join(addresses), pinned)
    with open_channel(own(site, "client"), peer) as channel, calling(str(peer), "for its health"):
        return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20.0).status)


def test_addresses_are_tried_in_turn_and_all_are_named(site: Site, listen: Listen, closed: list[str]) -> None:
    right = listen(own(site, "server-a"), own(site, "client").certificate)
    for addresses in ([closed[0], right], [right, closed[0]], [*closed, right], [closed[0], f"localhost:{right.split(':')[1]}"]):
        assert asked_for_health(site, *addresses) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(PeerUnavailableError) as caught:
        asked_for_health(site, *closed)
    named = f"server A at {closed[0]} or {closed[1]}, asked for its health: no connection ("
    assert str(caught.value).startswith(named)
    assert "refused). Is it running, and is the address right?" in str(caught.value)


@pytest.mark.parametrize("what", SHOWN)
def test_every_address_must_show_the_pin(site: Site, listen: Listen, closed: list[str], what: str) -> None:
    """Who shows another certificate is not spoken to, in whatever place; the right one behind it is."""
    shown, sentence = SHOWN[what]
    caller = own(site, "client").certificate
    wrong, right = listen(shown(site), caller), listen(own(site, "server-a"), caller)
    assert asked_for_health(site, wrong, right) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(CertificateError) as caught:
        asked_for_health(site, closed[0], wrong)
    assert str(caught.value).startswith(f"server A at {closed[0]} or {wrong}, asked for its health: {sentence}")
    for addresses in ([wrong, wrong], [wrong, closed[0]]):
        with pytest.raises((CertificateError, PeerUnavailableError)):
            asked_for_health(site, *addresses)


def test_the_pinned_certificate_has_expired(tmp_path: Path, listen: Listen) -> None:
    site = provision(tmp_path)
    expired = made_up("server-a", LONG_AGO)
    pin = site.certificate("server-a", held_by="client")
    pin.write_bytes(expired.certificate)
    error = stored(site, listen(expired, own(site, "client").certificate))
    assert str(pin.name) in str(error)
    assert "expired on" in str(error)
    assert "darkroom provision" in str(error)
    assert exit_code_of(error) is ExitCode.CONFIGURATION


@pytest.mark.parametrize("known", [made_up("client", NOW), made_up("client", LONG_AGO)], ids=["another", "an expired one"])
def test_server_a_knows_another_certificate_of_ours(site: Site, listen: Listen, known: Identity) -> None:
    address = listen(own(site, "server-a"), known.certificate)
    error = stored(site, address)
    assert str(error).startswith(f"server A at {address}, asked for its models: it broke off the handshake")
    assert "does its operator have our certificate" in str(error)
    assert exit_code_of(error) is ExitCode.CONFIGURATION


def test_what_listens_there_speaks_no_tls(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            end, _ = listener.accept()
            with end:
                end.recv(100)
                end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        error = stored(site, address)
    assert str(error) == f"server A at {address}, asked for its models: what listens there does not speak TLS: check the address"
    assert exit_code_of(error) is ExitCode.CONFIGURATION


DEALERS = {
    "a foreign one": (made_up("dealer", NOW), made_up("dealer", NOW).certificate, OTHER),
    "an expired one": (expired := made_up("dealer", LONG_AGO), expired.certificate, "its certificate has expired"),
}


@pytest.mark.parametrize("what", DEALERS)
def test_the_dealer_shows_a_server_another_certificate(site: Site, listen: Listen, what: str) -> None:
    shown, pinned, sentence = DEALERS[what]
    peer = Peer("the dealer", listen(shown, own(site, "server-a").certificate), pinned)
    with open_channel(own(site, "server-a"), peer) as channel, pytest.raises(ConfigurationError) as caught:
        DealerClient(channel, peer).open_push(NETWORK, Boots("0" * 32, "1" * 32))
    assert str(caught.value).startswith(f"the dealer at {peer.address}, asked for fresh masks of the weights: {sentence}")
    assert type(caught.value) is CertificateError


def test_no_connection_is_no_matter_of_certificates(site: Site) -> None:
    """A forwarded port to a machine that is down: accepted and closed before anybody has shown anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        error = stored(site, f"127.0.0.1:{listener.getsockname()[1]}")
    assert type(error) is PeerUnavailableError
    assert "no connection (" in str(error)
    assert "Is it running" in str(error)
