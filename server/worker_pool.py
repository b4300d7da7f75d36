"""Worker processes: one is kept warm, each serves one evaluation, none outlives its server."""

import signal
import socket
import subprocess
import sys
import threading

from server.pipe import Pipe


class WorkerProcess:
    """A running worker and our end of its pipe."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "server.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.pipe = Pipe(ours)

    def stop(self) -> None:
        """End the process, whatever it does; its secrets go with it."""
        self._process.send_signal(signal.SIGKILL)
        self.pipe.close()
        self._process.wait()


class WorkerPool:
    """Hands out the warm worker and starts the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: WorkerProcess | None = WorkerProcess()

    def take(self) -> WorkerProcess:
        """A fresh worker; the caller stops it."""
        with self._lock:
            worker, self._spare = self._spare, None
        return worker or WorkerProcess()

    def refill(self) -> None:
        """Start the next spare; called when an evaluation is over, so that its start does not slow one down."""
        with self._lock:
            if self._spare is None:
                self._spare = WorkerProcess()

    def close(self) -> None:
        """Stop the spare."""
        with self._lock:
            if self._spare is not None:
                self._spare.stop()
                self._spare = None
