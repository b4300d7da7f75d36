"""Errors cross the wire as status codes and come back as the same class."""

import inspect
import re

import grpc
import pytest

from proto import status
from proto.status import TABLE, abort, calling, error_of, status_of
from protocols import errors
from protocols.errors import (
    BusyError,
    CertificateError,
    DarkroomError,
    EncodingRangeError,
    LocalProtocolError,
    MaterialReusedError,
    NetworkDescriptionError,
    PeerUnavailableError,
    ProtocolError,
    RemoteProtocolError,
    SessionBrokenError,
)

EVERY_ERROR = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, DarkroomError)]
COARSER = {  # what is told apart on one machine only
    CertificateError: errors.ConfigurationError,
    EncodingRangeError: errors.BadInputError,
    NetworkDescriptionError: errors.BadInputError,
    errors.UnknownFormatError: errors.BadInputError,
    ProtocolError: LocalProtocolError,
    DarkroomError: LocalProtocolError,
}


class Call(grpc.RpcError):
    """A failed call, as gRPC raises it."""

    def __init__(self, status, details):
        super().__init__()
        self._status, self._details = status, details

    def code(self):
        return self._status

    def details(self):
        return self._details


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_comes_back_as_itself_or_its_parent(kind):
    back = error_of("server A", Call(status_of(kind("what and why")), "what and why"))
    assert type(back) is COARSER.get(kind, kind)
    assert str(back) == "server A: what and why"


def test_each_status_stands_for_one_class():
    statuses = [status for _, status in TABLE]
    assert len(set(statuses)) == len(statuses)
    reserved = {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert not reserved & set(statuses)  # gRPC sends these by itself


def test_no_class_is_hidden_by_its_parent_earlier_in_the_table():
    for index, (kind, _) in enumerate(TABLE):
        assert not [earlier for earlier, _ in TABLE[:index] if issubclass(kind, earlier)]


def test_reuse_is_told_apart_from_other_mistakes():
    assert status_of(MaterialReusedError("x")) is not status_of(LocalProtocolError("x"))
    assert status_of(BusyError("x")) is not status_of(PeerUnavailableError("x"))


CONNECT = "failed to connect to all addresses; last error: "
VERIFY = "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:CERTIFICATE_VERIFY_FAILED: "
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


# The details are those that grpcio 1.85 gives; tests/integration/test_failures_certificates.py meets the real ones.
@pytest.mark.parametrize(
    ("status", "details", "kind", "message"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", PeerUnavailableError, ": no answer in time. .* try again"),
        (grpc.StatusCode.CANCELLED, "Locally cancelled", SessionBrokenError, ": Locally cancelled"),
        (UNAVAILABLE, f"{CONNECT}UNKNOWN: ipv4:127.0.0.1:5: {VERIFY}unable to get", CertificateError, "another certificate"),
        (UNAVAILABLE, f"{CONNECT}UNKNOWN: ipv4:127.0.0.1:5: {VERIFY}certificate has expired: OK", CertificateError, "renew it"),
        (UNAVAILABLE, f"{CONNECT}UNKNOWN: ipv4:127.0.0.1:5: Tls: WRONG_VERSION_NUMBER: x", CertificateError, "not speak TLS"),
        (UNAVAILABLE, f"{CONNECT}UNAVAILABLE: ipv4:127.0.0.1:5: Socket closed", CertificateError, "have our certificate"),
        (
            UNAVAILABLE,
            f"{CONNECT}UNKNOWN: ipv4:127.0.0.1:5: Failed to connect to remote host: Connection refused",
            PeerUnavailableError,
            r": no connection \(Connection refused\). Is it running",
        ),
        (
            UNAVAILABLE,
            "errors resolving x:1: [field:hostname lookup error:lookup failed for x:1: Domain name not found]",
            PeerUnavailableError,
            r": no connection \(Domain name not found\). .* is the address right",
        ),
        (UNAVAILABLE, "Socket closed", PeerUnavailableError, r"the connection was lost \(Socket closed\)"),
        (UNAVAILABLE, "ping timeout", PeerUnavailableError, r"the connection was lost \(ping timeout\). .* try again"),
        (grpc.StatusCode.UNKNOWN, "Exception calling application", RemoteProtocolError, "Exception"),
        (grpc.StatusCode.UNAUTHENTICATED, None, RemoteProtocolError, "no details"),
    ],
)
def test_what_grpc_says_by_itself(status, details, kind, message):
    back = error_of("the dealer at d:1", Call(status, details), "for material")
    assert type(back) is kind
    assert str(back).startswith("the dealer at d:1, asked for material: ")
    assert re.search(message, str(back))


def test_calling_keeps_the_cause_and_leaves_other_errors_alone():
    call = Call(grpc.StatusCode.NOT_FOUND, "no such model")
    with pytest.raises(errors.NotFoundError, match="server B: no such model") as caught, calling("server B"):
        raise call
    assert caught.value.__cause__ is call
    with pytest.raises(ZeroDivisionError), calling("server B"):
        raise ZeroDivisionError


def test_abort_gives_status_and_message():
    class Context:
        def abort(self, status, details):
            raise RuntimeError(f"{status.name}: {details}")

    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED: full"):
        abort(Context(), BusyError("full"))


def test_abort_never_returns():
    class Context:
        def abort(self, status, details):
            """As a mock would: does not raise."""

    with pytest.raises(AssertionError):
        abort(Context(), BusyError("full"))


class Answer(Call, grpc.Call):
    """A failed call with trailing metadata."""

    def __init__(self, status, metadata):
        Call.__init__(self, status, "full")
        self._metadata = metadata

    def trailing_metadata(self):
        return self._metadata

    def _unused(self, *_):
        raise NotImplementedError

    initial_metadata = is_active = time_remaining = cancel = add_callback = _unused


class Trailing:
    """The server's half of it."""

    def __init__(self):
        self.pairs = ()

    def set_trailing_metadata(self, pairs):
        self.pairs = pairs

    def abort(self, status, details):
        raise Answer(status, self.pairs)


@pytest.mark.parametrize("kind", [BusyError, PeerUnavailableError])
@pytest.mark.parametrize("seconds", [None, 0, 12, 3600])
def test_when_to_try_again_crosses_the_wire(kind, seconds):
    with pytest.raises(kind) as caught, calling("server A"):
        abort(Trailing(), kind("full", retry_seconds=seconds))
    assert caught.value.retry_seconds == seconds


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        (None, None),
        ((("another-key", "12"),), None),
        (((status.RETRY_KEY, "soon"),), None),
        (((status.RETRY_KEY, "-1"),), None),
        (((status.RETRY_KEY, "1e9"),), None),
        (((status.RETRY_KEY, "٣"),), None),
        (((status.RETRY_KEY, b"12"),), None),
        (((status.RETRY_KEY, "9" * 5000),), status.LONGEST_RETRY_SECONDS),
    ],
)
def test_a_peer_can_say_anything(metadata, seconds):
    assert error_of("server A", Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, metadata)).retry_seconds == seconds
