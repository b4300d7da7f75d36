"""Pins and limits of the transport, without sockets; handshakes are tested in tests/integration."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from proto import transport
from proto.transport import CHUNK_BYTES, MAX_MESSAGE_BYTES, Callers, Identity, Peer, certificate_name, chunks, fingerprint
from protocols.errors import AccessDenied, ConfigurationError


def certificate(name="server-a.darkroom", *, names=None):
    """A self-signed certificate; names: other alternative names than one DNS name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "common name")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
    )
    alternatives = [x509.DNSName(name)] if names is None else names
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


EDGE, CLIENT, STRANGER = certificate("edge"), certificate("client"), certificate("edge")


class Context:
    """The part of gRPC's context that tells who calls."""

    def __init__(self, shown):
        self._shown = shown

    def auth_context(self):
        return {"x509_pem_cert": [self._shown]} if self._shown else {}


def test_fingerprint_is_sha256_of_the_der():
    der = x509.load_pem_x509_certificate(EDGE).public_bytes(serialization.Encoding.DER)
    assert fingerprint(EDGE) == hashlib.sha256(der).hexdigest()


def test_fingerprint_does_not_depend_on_how_the_pem_is_wrapped():
    assert fingerprint(b"a comment\n" + EDGE.replace(b"\n", b"\r\n")) == fingerprint(EDGE)


def test_fingerprints_differ_between_certificates_of_one_name():
    assert certificate_name(EDGE) == certificate_name(STRANGER) == "edge"
    assert fingerprint(EDGE) != fingerprint(STRANGER)


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", b"\xff" * 100])
def test_what_is_no_certificate(pem):
    with pytest.raises(ConfigurationError, match="not a PEM certificate"):
        fingerprint(pem)
    with pytest.raises(ConfigurationError, match="names no identity"):
        certificate_name(pem)


def test_the_name_is_the_dns_name_not_the_common_name():
    assert certificate_name(certificate("server-b.darkroom")) == "server-b.darkroom"
    for names in ([], [x509.RFC822Name("edge@hospital.example")]):
        with pytest.raises(ConfigurationError, match="names no identity"):
            certificate_name(certificate(names=names))


def test_a_caller_is_known_by_its_certificate_alone():
    callers = Callers({"edge": EDGE, "client": CLIENT})
    assert callers.require(Context(EDGE), "edge") == "edge"
    assert callers.require(Context(CLIENT), "edge", "client") == "client"


def test_a_certificate_of_another_role_is_refused():
    with pytest.raises(AccessDenied, match="is client's; this call is for edge"):
        Callers({"edge": EDGE, "client": CLIENT}).require(Context(CLIENT), "edge")


@pytest.mark.parametrize("shown", [STRANGER, b""])
def test_a_stranger_of_the_same_name_and_a_caller_without_certificate_are_refused(shown):
    with pytest.raises(AccessDenied, match="is unknown's; this call is for edge or client"):
        Callers({"edge": EDGE, "client": CLIENT}).require(Context(shown), "edge", "client")


def test_nobody_is_known_where_nobody_is_pinned():
    with pytest.raises(AccessDenied):
        Callers({}).require(Context(EDGE), "edge")


def test_one_certificate_may_stand_for_two_identities():
    callers = Callers({"edge": EDGE, "client": EDGE})
    assert callers.require(Context(EDGE), "client") == "client"
    assert callers.require(Context(EDGE), "edge") == "edge"
    with pytest.raises(AccessDenied, match="is client, edge's"):
        callers.require(Context(EDGE), "model-owner")


@given(content=st.binary(max_size=300), size=st.integers(1, 64))
@settings(max_examples=60, deadline=None, database=None)
def test_chunks_put_together_are_the_buffer(content, size):
    whole, transport.CHUNK_BYTES = transport.CHUNK_BYTES, size
    try:
        for buffer in (content, bytearray(content), memoryview(content)):
            pieces = list(chunks(buffer))
            assert b"".join(pieces) == content
            assert {len(piece) for piece in pieces[:-1]} <= {size}
            assert all(pieces)  # an empty piece says nothing, and receivers refuse it
    finally:
        transport.CHUNK_BYTES = whole


def test_a_chunk_fits_a_message_and_nothing_is_sent_twice():
    assert CHUNK_BYTES < MAX_MESSAGE_BYTES
    options = dict(transport.listener_options())
    assert options["grpc.max_receive_message_length"] == MAX_MESSAGE_BYTES
    assert options["grpc.enable_retries"] == 0
    assert options["grpc.so_reuseport"] == 0


def test_keys_and_certificates_are_not_printed():
    assert "PRIVATE" not in repr(Identity(EDGE, b"-----BEGIN PRIVATE KEY-----"))
    assert "BEGIN" not in repr(Peer("the dealer", "localhost:1", EDGE))
