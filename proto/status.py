"""The one table between Darkroom's errors and gRPC status codes, and what a call that failed by itself means.

UNAVAILABLE is never a party's answer: gRPC says it where there is no connection, so the two cannot be mistaken.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, NoReturn

import grpc

from protocols.errors import (
    AccessDenied,
    BadInputError,
    BusyError,
    CertificateError,
    ConfigurationError,
    DarkroomError,
    IntegrityError,
    LocalProtocolError,
    MaterialReusedError,
    NotFoundError,
    PeerUnavailableError,
    RemoteProtocolError,
    SessionBrokenError,
)

# What gRPC calls its reasons, and ours. In order: the first that is found in the details decides.
_HANDSHAKE: Final = (
    (r"certificate has expired", "its certificate has expired: its operator must renew it, and you must pin the new one"),
    (r"certificate is not yet valid", "its certificate is not valid yet: check the clocks of both machines"),
    (
        r"CERTIFICATE_VERIFY_FAILED|Hostname Verification",
        "it shows another certificate than the one that is pinned for it here: check the address, and ask its operator which"
        " certificate is right",
    ),
    (r"WRONG_VERSION_NUMBER", "what listens there does not speak TLS: check the address"),
    (
        r"\d: Socket closed|Tls handshake failed",  # with nothing said about the handshake: after it, so having seen ours
        "it broke off the handshake: does its operator have our certificate, and has that not expired?",
    ),
)

# In order: the first class that an error is an instance of decides.
TABLE: Final[tuple[tuple[type[DarkroomError], grpc.StatusCode], ...]] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (BadInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (SessionBrokenError, grpc.StatusCode.CANCELLED),
    (PeerUnavailableError, grpc.StatusCode.ABORTED),
    (AccessDenied, grpc.StatusCode.PERMISSION_DENIED),
    (IntegrityError, grpc.StatusCode.DATA_LOSS),
    (MaterialReusedError, grpc.StatusCode.ALREADY_EXISTS),
    (RemoteProtocolError, grpc.StatusCode.FAILED_PRECONDITION),
    (ConfigurationError, grpc.StatusCode.UNIMPLEMENTED),
    (LocalProtocolError, grpc.StatusCode.INTERNAL),
)

RETRY_KEY: Final = "darkroom-retry-after-seconds"  # trailing metadata of a refusal before anything was begun
LONGEST_RETRY_SECONDS: Final = 3600  # a peer that says more is not believed


def status_of(error: DarkroomError) -> grpc.StatusCode:
    """The status that a server answers with."""
    return next((status for kind, status in TABLE if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def error_of(peer: str, call: grpc.RpcError, asked: str = "") -> DarkroomError:
    """The error that a failed call to `peer` means here. asked: what for, as in "to store its share"."""
    status, details = call.code(), call.details() or "no details"
    who = f"{peer}, asked {asked}" if asked else peer
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PeerUnavailableError(f"{who}: no answer in time. It is overloaded, or the line to it is dead: try again later")
    if status is grpc.StatusCode.UNAVAILABLE:
        return _no_connection(who, details)
    kind = next((kind for kind, known in TABLE if known is status), RemoteProtocolError)
    error = kind(f"{who}: {details}")
    if isinstance(error, PeerUnavailableError):
        error.retry_seconds = _retry_seconds(call)
    return error


def _retry_seconds(call: grpc.RpcError) -> int | None:
    """When a refused call may be made again, if the peer said so."""
    metadata = call.trailing_metadata() if isinstance(call, grpc.Call) else None
    for key, value in metadata or ():
        if key == RETRY_KEY and isinstance(value, str) and value.isascii() and value.isdecimal():
            return min(int(value[:6]), LONGEST_RETRY_SECONDS)
    return None


def _no_connection(who: str, details: str) -> DarkroomError:
    for pattern, meaning in _HANDSHAKE:
        if re.search(pattern, details, re.IGNORECASE):
            return CertificateError(f"{who}: {meaning}")
    reason = (re.findall(r"[A-Za-z][A-Za-z ]+", details) or [details])[-1].strip()  # the innermost of a chain
    if "failed to connect" in details or "resolving" in details:
        return PeerUnavailableError(f"{who}: no connection ({reason}). Is it running, and is the address right?")
    return PeerUnavailableError(f"{who}: the connection was lost ({reason}). Is it still running? Then try again")


def abort(context: grpc.ServicerContext, error: DarkroomError) -> NoReturn:
    """End a call with the status of `error`, and with when to try again where it says so. Run by servers and dealer."""
    if isinstance(error, PeerUnavailableError) and error.retry_seconds is not None:
        context.set_trailing_metadata(((RETRY_KEY, str(error.retry_seconds)),))
    context.abort(status_of(error), str(error))
    raise AssertionError("abort always raises")


@contextmanager
def calling(peer: str, asked: str = "") -> Generator[None]:
    """Turn failed calls to `peer` inside the block into Darkroom's errors. asked: what for."""
    try:
        yield
    except grpc.RpcError as call:
        raise error_of(peer, call, asked) from call
