"""Worker processes: one is kept warm, each serves one evaluation, none outlives its server."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Final

from protocols.errors import PeerUnavailableError
from server.pipe import Pipe

WORKER: Final = "server.worker"

# A wire is tens of MiB. glibc would map and zero fresh pages for each, which costs more than the arithmetic on it;
# with these the worker keeps and reuses its heap, in huge pages. The process ends with its evaluation, so nothing lingers.
ALLOCATOR: Final = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class WorkerProcess:
    """A running worker and our end of its pipe."""

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ALLOCATOR},
            )
        self.pipe = Pipe(ours)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Let the process end, whatever it does, and wake whoever waits on its pipe. For another thread than the owner's."""
        self._process.send_signal(signal.SIGKILL)
        self.pipe.interrupt()

    def ended(self, seconds: float) -> bool:
        """Wait for the end of the process; whether it came."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End the process and wait until it has ended; its secrets go with it."""
        self._process.send_signal(signal.SIGKILL)
        self.pipe.close()
        self._process.wait()


class WorkerPool:
    """Hands out the warm worker and starts the next."""

    def __init__(self, module: str = WORKER) -> None:
        """module: what a worker process runs; the security evaluation breaks one on purpose."""
        self._module = module
        self._lock = threading.Lock()
        self._spare: WorkerProcess | None = WorkerProcess(module)
        self.on_restart: Callable[[], None] = lambda: None  # called where a warm worker had ended by itself

    def take(self) -> WorkerProcess:
        """A fresh worker; the caller stops it."""
        with self._lock:
            worker, self._spare = self._spare, None
        if worker is not None and not worker.running:  # killed while it waited: for want of memory, say
            worker.stop()
            worker = None
            self.on_restart()
        return worker or WorkerProcess(self._module)

    def refill(self) -> None:
        """Start the next spare; called when an evaluation is over, so that its start does not slow one down."""
        with self._lock:
            if self._spare is None:
                self._spare = WorkerProcess(self._module)

    def require_warm(self) -> None:
        """Raises PeerUnavailableError where the warm worker had ended; the next is started when it is needed.

        Not here: a worker is killed when the thread that started it ends (prctl's PDEATHSIG is of the thread), and who asks this
        may be short-lived. While an evaluation is under way there is no warm worker, and none is missing.
        """
        with self._lock:
            if self._spare is None or self._spare.running:
                return
            self._spare.stop()
            self._spare = None
        self.on_restart()
        raise PeerUnavailableError("the warm worker process had ended: out of memory? see this server's log")

    def close(self) -> None:
        """Stop the spare."""
        with self._lock:
            if self._spare is not None:
                self._spare.stop()
                self._spare = None
