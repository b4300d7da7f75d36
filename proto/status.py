"""The one table between Darkroom's errors and gRPC status codes."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, NoReturn

import grpc

from protocols.errors import (
    AccessDenied,
    BadInputError,
    BusyError,
    ConfigurationError,
    DarkroomError,
    IntegrityError,
    LocalProtocolError,
    MaterialReusedError,
    NotFoundError,
    PeerUnavailableError,
    RemoteProtocolError,
)

# In order: the first class that an error is an instance of decides.
TABLE: Final[tuple[tuple[type[DarkroomError], grpc.StatusCode], ...]] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (BadInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (PeerUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (AccessDenied, grpc.StatusCode.PERMISSION_DENIED),
    (IntegrityError, grpc.StatusCode.DATA_LOSS),
    (MaterialReusedError, grpc.StatusCode.ALREADY_EXISTS),
    (RemoteProtocolError, grpc.StatusCode.FAILED_PRECONDITION),
    (ConfigurationError, grpc.StatusCode.UNIMPLEMENTED),
    (LocalProtocolError, grpc.StatusCode.INTERNAL),
)


def status_of(error: DarkroomError) -> grpc.StatusCode:
    """The status that a server answers with."""
    return next((status for kind, status in TABLE if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def error_of(peer: str, call: grpc.RpcError) -> DarkroomError:
    """The error that a failed call to `peer` means here."""
    status, details = call.code(), call.details() or "no details"
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PeerUnavailableError(f"{peer} did not answer in time")
    if status is grpc.StatusCode.CANCELLED:
        return PeerUnavailableError(f"the call to {peer} was cancelled")
    if status is grpc.StatusCode.UNAVAILABLE and ("handshake" in details.lower() or "ssl" in details.lower()):
        return PeerUnavailableError(
            f"{peer} refused our certificate, or its certificate is not the pinned one (or one has expired): {details}"
        )
    kind = next((kind for kind, known in TABLE if known is status), RemoteProtocolError)
    return kind(f"{peer}: {details}")


def abort(context: grpc.ServicerContext, error: DarkroomError) -> NoReturn:
    """End a call with the status of `error`. Run by servers and dealer."""
    context.abort(status_of(error), str(error))
    raise AssertionError("abort always raises")


@contextmanager
def calling(peer: str) -> Generator[None]:
    """Turn failed calls to `peer` inside the block into Darkroom's errors."""
    try:
        yield
    except grpc.RpcError as call:
        raise error_of(peer, call) from call
