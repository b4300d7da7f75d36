"""Worker processes: each is forked from a nursery, serves one evaluation, and outlives neither it nor its server."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Final

from protocols.errors import PeerUnavailableError
from server.pipe import Pipe

NURSERY: Final = "server.nursery"
FORK_SECONDS: Final = 120.0  # the first fork waits for the nursery's imports, on a busy machine

# What numpy's and PyTorch's libraries would start beside the thread that forks is lost in a fork, with the locks it holds.
ONE_THREAD: Final = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

# A wire is tens of MiB. glibc would map and zero fresh pages for each, which costs more than the arithmetic on it;
# with these the worker keeps and reuses its heap, in huge pages. The process ends with its evaluation, so nothing lingers.
ALLOCATOR: Final = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class WorkerProcess:
    """A running worker, known by its pidfd, and our end of its pipe. Safe for several threads."""

    def __init__(self, pipe: Pipe, pidfd: int) -> None:
        self.pipe = pipe
        self._pidfd = pidfd
        weakref.finalize(self, os.close, pidfd)  # not sooner: another thread may be about to use it

    @property
    def running(self) -> bool:
        return not self.ended(0.0)

    def kill(self) -> None:
        """Let the process end, whatever it does, and wake whoever waits on its pipe. For another thread than the owner's."""
        self._signal()
        self.pipe.interrupt()

    def ended(self, seconds: float | None) -> bool:
        """Wait for the end of the process, with None for ever; whether it came."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else 1000 * seconds))

    def stop(self) -> None:
        """End the process and wait until it has ended; its secrets go with it."""
        self._signal()
        self.pipe.close()
        self.ended(None)

    def _signal(self) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended


class _Nursery:
    """A running nursery and our end of its control socket. Safe for several threads."""

    def __init__(self, module: str) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(FORK_SECONDS)
        self._asking = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ALLOCATOR, **ONE_THREAD},
                process_group=0,  # Ctrl-C at a terminal is the server's to handle, during the nursery's imports too
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def fork(self) -> WorkerProcess | None:
        """A fresh worker; None where the system has no process to give. Raises OSError: the nursery has ended, or hangs."""
        ours, theirs = socket.socketpair()
        with self._asking:
            with theirs:
                socket.send_fds(self._control, [b"w"], [theirs.fileno()])
            answer, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        if not answer:
            raise BrokenPipeError
        return WorkerProcess(Pipe(ours), descriptors[0]) if descriptors else None

    def close(self) -> None:
        """End it and its workers, whatever it does; who waits for a fork is told that it has ended."""
        self._process.kill()
        self._process.wait()
        with self._asking:  # whose turn it is has seen the end; the descriptor is not closed under its hands
            self._control.close()


class WorkerPool:
    """Hands out fresh workers. Safe for several threads: none waits for one that waits for a fork, except to fork."""

    def __init__(self, module: str = NURSERY) -> None:
        """module: what the nursery runs; the security evaluation breaks one on purpose."""
        self._module = module
        self._lock = threading.Lock()
        self._nursery = _Nursery(module)
        self._closed = False
        self.on_restart: Callable[[], None] = lambda: None  # called where the nursery had ended by itself

    def take(self) -> WorkerProcess:
        """A fresh worker; the caller stops it. Raises PeerUnavailableError: the system gives no process, or we are closed."""
        nursery = self._nursery
        try:
            worker = nursery.fork()
        except OSError:  # killed for want of memory, say, and its workers with it
            nursery = self._replaced(nursery)
            try:
                worker = nursery.fork()
            except OSError:
                nursery.close()  # it may hang, holding what we asked for
                raise PeerUnavailableError("the process that starts workers does not start; see this server's log") from None
        if worker is None:
            raise PeerUnavailableError("no worker process could be started: out of memory, or too many processes?")
        return worker

    def require_warm(self) -> None:
        """Raises PeerUnavailableError, once, where the nursery had ended; it is started anew."""
        nursery = self._nursery
        if self._closed or nursery.running:
            return
        self._replaced(nursery)
        raise PeerUnavailableError("the process that starts workers had ended: out of memory? see this server's log")

    def close(self) -> None:
        """End the nursery, and with it every worker. None is started after."""
        with self._lock:
            self._closed = True
            self._nursery.close()

    def _replaced(self, ended: _Nursery) -> _Nursery:
        """The one after this nursery, which is ended; who asks first starts it. Raises PeerUnavailableError: we are closed."""
        with self._lock:
            if self._closed:
                raise PeerUnavailableError("this server is stopping")
            if self._nursery is ended:
                ended.close()
                self._nursery = _Nursery(self._module)
                self.on_restart()
            return self._nursery
