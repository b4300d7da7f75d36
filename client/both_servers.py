"""One connection to each server, and calls that run at both at once.

Assumes what `proto.transport` gives: each server is known by its own certificate.
"""

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc

from client.config import HospitalConfig
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.status import calling
from proto.transport import Identity, open_channel
from protocols.errors import (
    AccessDenied,
    BadInputError,
    BusyError,
    ConfigurationError,
    DarkroomError,
    IntegrityError,
    LocalProtocolError,
    PeerUnavailableError,
    RemoteProtocolError,
    SessionBrokenError,
)
from protocols.identifiers import ObjectId, Role

T = TypeVar("T")
SHORT_CALL_SECONDS: Final = 30.0  # nothing but a look-up
UPLOAD_BYTES_PER_SECOND: Final = 125_000.0  # a slow hospital uplink, 1 Mbit/s: a deadline, not an estimate
GRACE_SECONDS: Final = 2.0  # when one server fails, the other may be about to say why
# When both servers fail, one is the cause and the other saw its peer go away: the first kind of these is shown.
_TELLING: Final[tuple[type[DarkroomError], ...]] = (
    AccessDenied,
    BadInputError,
    ConfigurationError,
    BusyError,
    IntegrityError,
    LocalProtocolError,
    RemoteProtocolError,
    PeerUnavailableError,
)


@dataclass(frozen=True, eq=False)
class Connection:
    """A channel to one server."""

    role: Role
    channel: grpc.Channel
    stub: Any  # rpc.ServerStub; generated code is untyped
    address: str  # every one that it may have, for people

    @property
    def name(self) -> str:
        return f"server {self.role.value}"

    @property
    def place(self) -> str:
        """Name and address, for errors."""
        return f"{self.name} at {self.address}"


@contextmanager
def connect(config: HospitalConfig, identity: Identity) -> Generator[Mapping[Role, Connection]]:
    """Channels to both servers, closed at the end. Connects at the first call. Raises ConfigurationError."""
    with ExitStack() as stack:
        connections = {}
        for role in Role:
            peer = config.peer(role)
            channel = stack.enter_context(open_channel(identity, peer))
            connections[role] = Connection(role, channel, rpc.ServerStub(channel), peer.place)
        yield connections


def upload_seconds(count: int) -> float:
    """A deadline for sending so many bytes."""
    return SHORT_CALL_SECONDS + count / UPLOAD_BYTES_PER_SECOND


def at_both(jobs: Mapping[Role, Callable[[], T]], cancel: Callable[[], None]) -> dict[Role, T]:
    """Run one job for each server, in threads, to the end of both; return both results or raise.

    When one fails, the other gets a moment to fail for itself and is then cancelled. Of two errors the more telling is
    raised, of two alike the earlier. cancel: ends both calls (`client.calls`), and does nothing to a finished one; also where
    Ctrl-C comes.
    """
    failed: list[BaseException] = []

    def watch(future: "Future[T]") -> None:
        error = future.exception()
        if error is not None:
            failed.append(error)

    with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        try:
            futures = {role: pool.submit(job) for role, job in jobs.items()}
            for future in futures.values():
                future.add_done_callback(watch)
            _, pending = wait(futures.values(), return_when=FIRST_EXCEPTION)
            if pending:
                wait(pending, timeout=GRACE_SECONDS)
        finally:
            cancel()
        wait(futures.values())
    if failed:
        raise _most_telling(failed)
    return {role: future.result() for role, future in futures.items()}


def _most_telling(errors: list[BaseException]) -> BaseException:
    for error in errors:
        if not isinstance(error, DarkroomError):
            return error  # a bug is never hidden behind a peer's error
    causes = [error for error in errors if not isinstance(error, SessionBrokenError)] or errors
    return next((error for kind in _TELLING for error in causes if isinstance(error, kind)), causes[0])


def greet(connection: Connection) -> pb.ListModelsReply:
    """The models that one server holds; also shows that it answers, and knows us. Raises DarkroomError."""
    with calling(connection.place, "for its models"):
        reply: pb.ListModelsReply = connection.stub.ListModels(pb.ListModelsRequest(), timeout=SHORT_CALL_SECONDS)
        return reply


def delete_object(connection: Connection, object_id: ObjectId) -> None:
    """Delete one object at one server. Raises NotFoundError: it has none. DarkroomError."""
    with calling(connection.place, "to delete its share"):
        connection.stub.Delete(pb.DeleteRequest(object_id=str(object_id)), timeout=SHORT_CALL_SECONDS)
