"""What a listening party says of itself to everyone whose certificate it pins: version, clock, free memory and disk."""

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import psutil

from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.status import abort, calling
from proto.transport import Callers
from proto.version import VERSION, WIRE_VERSION
from protocols.errors import AccessDenied

DESCRIBE_SECONDS: Final = 10.0  # a handshake over a bad line


@dataclass(frozen=True)
class Description:
    """A party's answer, and how far its clock is ahead of ours. Public."""

    version: str
    wire_version: int
    clock_ahead_seconds: float
    clock_uncertainty_seconds: float  # half the time that the call took
    free_memory_bytes: int
    free_disk_bytes: int | None  # None: it stores nothing


class PartyService(rpc.PartyServicer):
    """Run by dealer, server A and server B."""

    def __init__(self, callers: Callers, names: Iterable[str], store: Path | None) -> None:
        """names: every identity that may call. store: the folder of shares; None at the dealer."""
        self._callers = callers
        self._names = tuple(names)
        self._store = store

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.DescribeReply:  # noqa: N802
        """Run by any pinned identity."""
        try:
            self._callers.require(context, *self._names)
        except AccessDenied as error:
            abort(context, error)
        return pb.DescribeReply(
            version=VERSION,
            wire_version=WIRE_VERSION,
            clock=time.time(),
            free_memory_bytes=free_memory(),
            free_disk_bytes=None if self._store is None else free_disk(self._store),
        )


def describe(channel: grpc.Channel, name: str) -> Description:
    """Ask a party. Raises PeerUnavailableError, AccessDenied; ConfigurationError: it is of a version without this call."""
    before = time.time()
    with calling(name, "how it is"):
        reply = rpc.PartyStub(channel).Describe(pb.DescribeRequest(), timeout=DESCRIBE_SECONDS)
    after = time.time()
    return Description(
        version=str(reply.version),
        wire_version=int(reply.wire_version),
        clock_ahead_seconds=float(reply.clock) - (before + after) / 2,
        clock_uncertainty_seconds=(after - before) / 2,
        free_memory_bytes=int(reply.free_memory_bytes),
        free_disk_bytes=int(reply.free_disk_bytes) if reply.HasField("free_disk_bytes") else None,
    )


def free_memory() -> int:
    """Bytes of memory that a new process here can use without swapping."""
    return int(psutil.virtual_memory().available)


def free_disk(folder: Path) -> int:
    """Free bytes where a folder is, or will be made."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
