"""Channels and listeners: mutual TLS with every peer pinned by its own certificate.

There is no certificate authority. Each identity has a self-signed certificate (not allowed to sign others), and the
peer's certificate is the only trust root of a connection. So a certificate that some authority would vouch for, or that
belongs to another role, fails the handshake (client side), or finds no identity and is refused (server side).
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from proto.addresses import dial_target, listed
from protocols.errors import AccessDenied, ConfigurationError
from protocols.unpicklable import Unpicklable

CHUNK_BYTES: Final = 1 << 20  # fastest of 64 KiB, 1 MiB and 16 MiB over gRPC with TLS on loopback
MAX_MESSAGE_BYTES: Final = 4 << 20  # a chunk, its labels, and room for a network description; nothing larger is parsed
CONNECT_SECONDS: Final = 20.0
# A link on which nothing comes for this long is given up: half of it until the peer is asked for a sign of life, half for the
# sign. Pings are answered while a party computes, so this can be short beside every deadline of a step.
SILENCE_SECONDS: Final = 40.0
SHORTEST_SILENCE_SECONDS: Final = 1.0  # below, pings would be traffic
MAX_SILENCE_SECONDS: Final = 3600.0  # as long as no session is
RECONNECT_SECONDS: Final = 1.0  # two attempts to connect
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_retries", 0),  # not even those that gRPC makes by itself: what was sent once is not sent again
    ("grpc.initial_reconnect_backoff_ms", 100),  # a peer that was restarted is found again within a second
    ("grpc.max_reconnect_backoff_ms", int(RECONNECT_SECONDS * 500)),
    ("grpc.http2.max_pings_without_data", 0),
    # The peer may have the shortest silence that can be set, and is not to be sent away for asking too often.
    ("grpc.http2.min_ping_interval_without_data_ms", int(SHORTEST_SILENCE_SECONDS * 1000 / 4)),
)


@dataclass(frozen=True, eq=False)
class Identity(Unpicklable):
    """One party's certificate and private key, PEM."""

    certificate: bytes
    private_key: bytes = field(repr=False)


@dataclass(frozen=True)
class Peer:
    """Where a peer listens, the one certificate that it must show (PEM), and how long it may be silent."""

    name: str
    address: str  # several: in the order in which they are tried, blanks between (`proto.addresses`)
    certificate: bytes = field(repr=False)
    silence_seconds: float = SILENCE_SECONDS

    @property
    def place(self) -> str:
        """Every address, for people."""
        return " or ".join(listed(self.address))

    def __str__(self) -> str:
        return f"{self.name} at {self.place}"


def fingerprint(certificate_pem: bytes) -> str:
    """SHA-256 of the DER certificate, in hex. Raises ConfigurationError."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise ConfigurationError(f"not a PEM certificate: {error}") from error
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def certificate_name(certificate_pem: bytes) -> str:
    """The DNS name in the certificate, which is the identity's name. Raises ConfigurationError."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return str(names.get_values_for_type(x509.DNSName)[0])
    except (ValueError, IndexError, x509.ExtensionNotFound) as error:
        raise ConfigurationError(f"the certificate names no identity: {error}") from error


def open_channel(identity: Identity, peer: Peer) -> grpc.Channel:
    """A channel that trusts exactly the pinned certificate of `peer`, and gives it up when it is silent for too long.

    Raises ConfigurationError: one of several addresses is none.
    """
    credentials = grpc.ssl_channel_credentials(peer.certificate, identity.private_key, identity.certificate)
    name = ("grpc.ssl_target_name_override", certificate_name(peer.certificate))
    # gRPC's name for what is also the time that one attempt to connect may take, handshake included.
    attempt = ("grpc.min_reconnect_backoff_ms", int(peer.silence_seconds * 500))
    return grpc.secure_channel(
        dial_target(peer.address), credentials, options=[*_OPTIONS, *_sign_of_life(peer.silence_seconds), name, attempt]
    )


def wait_for_reconnection(channel: grpc.Channel) -> None:
    """Where the last attempt to connect failed, wait a moment for the next: gRPC would answer a call with the old failure.

    For channels that outlive a session. Says nothing; the call that follows does.
    """
    states: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()
    channel.subscribe(states.put, try_to_connect=True)
    deadline = time.monotonic() + RECONNECT_SECONDS
    try:
        failed = states.get() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        while failed:
            failed = states.get(timeout=max(0.0, deadline - time.monotonic())) is not grpc.ChannelConnectivity.READY
    except Empty:
        pass  # it is still gone
    finally:
        channel.unsubscribe(states.put)


def listener_credentials(identity: Identity, allowed: Iterable[bytes]) -> grpc.ServerCredentials:
    """Server credentials that complete a handshake with the `allowed` certificates (PEM) only."""
    pair = (identity.private_key, identity.certificate)
    return grpc.ssl_server_credentials([pair], root_certificates=b"\n".join(allowed), require_client_auth=True)


def listener_options(silence_seconds: float = SILENCE_SECONDS) -> tuple[tuple[str, int], ...]:
    """Message limits and keep-alive for a server; a port in use is an error, not shared."""
    return (*_OPTIONS, *_sign_of_life(silence_seconds), ("grpc.so_reuseport", 0))


def checked_silence(text: str, where: str) -> float:
    """The seconds that a configuration file allows a peer to be silent. Raises ConfigurationError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST_SILENCE_SECONDS <= seconds <= MAX_SILENCE_SECONDS:
        raise ConfigurationError(
            f"{where} must be a number of seconds from {SHORTEST_SILENCE_SECONDS:g} to {MAX_SILENCE_SECONDS:g}, not {text[:40]!r}"
        )
    return seconds


def _sign_of_life(silence_seconds: float) -> tuple[tuple[str, int], ...]:
    half = int(silence_seconds * 500)
    # gRPC waits for the answer to a ping by the third of these, whose default is a minute.
    return (("grpc.keepalive_time_ms", half), ("grpc.keepalive_timeout_ms", half), ("grpc.http2.ping_timeout_ms", half))


class Callers:
    """Who may call: certificate fingerprints and the identity each stands for."""

    def __init__(self, certificates: Mapping[str, bytes]) -> None:
        """certificates: pinned certificate (PEM) by identity name, such as "edge"."""
        self._names: dict[str, set[str]] = {}
        for name, certificate in certificates.items():
            self._names.setdefault(fingerprint(certificate), set()).add(name)

    def require(self, context: grpc.ServicerContext, *allowed: str) -> str:
        """The caller's identity. Raises AccessDenied where it is none of `allowed`."""
        shown = context.auth_context().get("x509_pem_cert", [b""])[0]
        names = self._names.get(fingerprint(shown), set()) if shown else set()
        for name in allowed:
            if name in names:
                return name
        known = ", ".join(sorted(names)) or "unknown"
        raise AccessDenied(f"the caller's certificate is {known}'s; this call is for {' or '.join(allowed)}")


def chunks(buffer: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """Cut a buffer into messages."""
    view = memoryview(buffer).cast("B")
    for start in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])
