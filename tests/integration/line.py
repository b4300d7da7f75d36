"""A TCP line between two parties that a test can cut, or stall after so many bytes: what a network does to them."""

import contextlib
import socket
import struct
import threading
from typing import Final

RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST, as a router or a dead machine's peer does
READ_BYTES: Final = 1 << 14


class Connection:
    """The two sockets of one connection through the line."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.ends = (near, far)
        self.broken = False

    def reset(self) -> None:
        self.broken = True
        for end in self.ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.wake()

    def wake(self) -> None:
        """End the waiting of the threads that read."""
        for end in self.ends:
            with contextlib.suppress(OSError):  # the other party has closed it
                end.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self.wake()
        for end in self.ends:
            end.close()


class Line:
    """Listens on a port of its own and passes everything on to `target`, both ways, until told otherwise."""

    def __init__(self, target: str = "") -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._changed = threading.Condition()
        self._budget: int | None = None  # bytes that still pass from the target; None: all
        self._up = True
        self._connections: set[Connection] = set()
        self._sent = False
        self._holding = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self, after_bytes: int = 0, *, sent: bool = False) -> None:
        """From now on so many bytes come from the target, and then nothing goes either way; connections stay open.

        sent: bytes that go to the target count in place of those.
        """
        with self._changed:
            self._budget, self._sent = after_bytes, sent

    @property
    def holding(self) -> bool:
        """Whether somebody has sent what a stall keeps back."""
        with self._changed:
            return self._holding > 0

    def release(self) -> None:
        """Pass on what a stall has kept back, and all that follows; connections stay open."""
        with self._changed:
            self._budget = None
            self._changed.notify_all()

    def cut(self) -> None:
        """Reset what is connected, and whatever comes."""
        with self._changed:
            self._up = False
            self._reset()

    def repair(self, target: str = "") -> None:
        """Pass everything on again, to another target where one is given. What was stalled or cut is reset."""
        with self._changed:
            if self._budget is not None or target:
                self._reset()
            self._target = target or self._target
            self._budget, self._up = None, True

    def close(self) -> None:
        """The end."""
        self.cut()
        self._listener.close()

    def _reset(self) -> None:
        for connection in self._connections:
            connection.reset()
        self._changed.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            far = socket.create_connection((host, int(port)))
        except OSError:  # nobody listens there
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            near.close()
            return
        connection = Connection(near, far)
        with self._changed:
            self._connections.add(connection)
            if not self._up:
                connection.reset()
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(connection, source, sink), daemon=True).start()

    def _pass(self, connection: Connection, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # one of the two has gone
            while chunk := source.recv(READ_BYTES):
                if not self._let_through(connection, len(chunk), sent=source is connection.ends[0]):
                    break
                sink.sendall(chunk)
        with self._changed:
            ours = connection in self._connections
            self._connections.discard(connection)
            connection.broken = True
            self._changed.notify_all()
        if ours:
            connection.close()

    def _let_through(self, connection: Connection, count: int, *, sent: bool) -> bool:
        """Wait while the line is stalled; whether the connection is still whole then. sent: to the target."""
        with self._changed:
            if self._budget is not None and sent is self._sent:
                self._budget -= count
            self._holding += 1
            self._changed.wait_for(lambda: connection.broken or self._budget is None or self._budget > 0)
            self._holding -= 1
            return not connection.broken
