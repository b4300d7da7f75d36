"""Workers forked from one process that has imported CrypTen: hundreds of sessions in minutes instead of an hour.

A forked worker runs `server.worker.main` as a fresh one does; only the three seconds of import are shared. What a worker
draws comes from its job, never from its process, so forking changes no value.
"""

import array
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Final

from security.stage import Stage
from security.staged_worker import break_worker
from server import crypten_runtime, worker
from server.pipe import Pipe
from server.worker_pool import ALLOCATOR, WorkerPool, WorkerProcess

MODULE: Final = "security.forked_worker"


class _ForkedProcess(WorkerProcess):
    """A worker whose parent is the nursery; it ends when its pipe does."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    @property
    def running(self) -> bool:
        return True

    def kill(self) -> None:
        self.pipe.interrupt()

    def ended(self, seconds: float) -> bool:
        return True  # nobody waits for it: it ends when it finds its pipe ended

    def stop(self) -> None:
        self.pipe.close()


class ForkedPool(WorkerPool):
    """Hands out forked workers."""

    def __init__(self, module: str = MODULE) -> None:
        """module: runs `nurse` with the descriptor that is its only argument."""
        self._ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            self._nursery = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ALLOCATOR},
            )

    def take(self) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))
            self._ours.sendmsg([b"f"], [rights])
        return _ForkedProcess(Pipe(ours))

    def refill(self) -> None:
        """Nothing to do: forking is quick."""

    def require_warm(self) -> None:
        """Nothing to do: the nursery is always warm."""

    def close(self) -> None:
        self._ours.close()
        self._nursery.wait()


def nurse(descriptor: int) -> None:
    """The nursery: fork a worker for each descriptor that arrives at this one, until the server closes the socket."""
    control = socket.socket(fileno=descriptor)
    crypten_runtime.import_crypten()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            return
        if os.fork() == 0:
            control.close()
            sys.argv[1] = str(descriptors[0])
            worker.main()
            os._exit(0)
        os.close(descriptors[0])


if __name__ == "__main__":
    crypten_runtime.import_crypten()  # first: what is broken then stays broken
    break_worker(Stage.from_environment())
    nurse(int(sys.argv[1]))
