"""Framed messages between a server process and its worker process, over a socket pair. Never on a network.

A frame is a kind, a label, a length and that many bytes; large frames are read straight into the buffer they are for.
"""

import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocols.errors import LocalProtocolError

HEADER: Final = struct.Struct("<BIQ")
MAX_FRAME_BYTES: Final = 1 << 34  # one wire of a 4096x4096 image at 128 channels; a longer length is a broken stream
RELAY_BYTES: Final = 1 << 20
ENDED: Final = "the other process ended in the middle of a message"


class Kind(IntEnum):
    """What a frame carries."""

    JOB = 1  # to the worker: WorkerJob
    CORRECTION = 2  # to the worker: ring words; label = plan index
    READY = 3  # from the worker: all that does not need the image is done
    GO = 4  # to the worker: both servers are ready
    OPENING = 5  # both ways: ring words; label = plan index
    RESULT = 6  # from the worker: ring words of the output share
    STATS = 7  # from the worker: WorkerStats
    FAILED = 8  # from the worker: error class and message
    WARM = 9  # to a spare worker, before its job: label = MiB of memory to have at hand


@dataclass(frozen=True)
class FrameHeader:
    """Kind, label and length in bytes of the frame that follows."""

    kind: Kind
    label: int
    length: int


class Pipe:
    """One end of the socket pair. One thread may send while another receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, RELAY_BYTES)

    def send_header(self, kind: Kind, label: int, length: int) -> None:
        """Announce a frame whose `length` bytes follow by `send_bytes`."""
        self._socket.sendall(HEADER.pack(kind, label, length))

    def send_bytes(self, chunk: bytes | memoryview) -> None:
        """Part of the announced frame."""
        self._socket.sendall(chunk)

    def send(self, kind: Kind, payload: bytes | memoryview = b"", label: int = 0) -> None:
        """A whole frame."""
        view = memoryview(payload).cast("B")
        self.send_header(kind, label, len(view))
        self._socket.sendall(view)

    def receive_header(self) -> FrameHeader | None:
        """The next frame's header; None when the other process has closed its end."""
        buffer = bytearray(HEADER.size)
        if not self._fill(memoryview(buffer), may_end=True):
            return None
        kind, label, length = HEADER.unpack(buffer)
        if length > MAX_FRAME_BYTES or kind not in tuple(Kind):
            raise LocalProtocolError(f"a frame of kind {kind} and {length} bytes cannot be right")
        return FrameHeader(Kind(kind), label, length)

    def holds_something(self) -> bool:
        """Whether something has come, or the other process has closed its end."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def receive_into(self, view: memoryview) -> None:
        """Fill the view with the announced frame, or a part of it."""
        self._fill(view, may_end=False)

    def receive_bytes(self, length: int) -> bytearray:
        """The announced frame as bytes."""
        buffer = bytearray(length)
        self._fill(memoryview(buffer), may_end=False)
        return buffer

    def relay(self, length: int) -> Iterator[bytes]:
        """The announced frame in pieces, for passing on."""
        while length:
            piece = self._socket.recv(min(length, RELAY_BYTES), socket.MSG_WAITALL)
            if not piece:
                raise ConnectionResetError(ENDED)
            length -= len(piece)
            yield piece

    def interrupt(self) -> None:
        """End the traffic both ways; a thread that waits on this end is woken.

        For another thread than the owner's: the descriptor stays open, so that its number cannot be a new socket's yet.
        """
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other process has gone already

    def close(self) -> None:
        """Close this end."""
        self.interrupt()
        self._socket.close()

    def _fill(self, view: memoryview, *, may_end: bool) -> bool:
        view = view.cast("B")
        filled = 0
        while filled < len(view):
            count = self._socket.recv_into(view[filled:])
            if count == 0:
                if may_end and filled == 0:
                    return False
                raise ConnectionResetError(ENDED)
            filled += count
        return True
