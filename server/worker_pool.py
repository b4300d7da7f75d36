"""Worker processes: each is forked from a nursery, serves one evaluation, and outlives neither it nor its server."""

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from protocols.errors import PeerUnavailableError
from server.nursery_answer import ANSWER, FORKED
from server.pipe import Kind, Pipe

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

# A spare worker waits with as much memory in hand as the evaluation before had touched.
LEAST_SPARE_BYTES: Final = 64 << 20  # touching less takes no time that anybody would see
MOST_SPARE_BYTES: Final = 1 << 30
SPARE_SECONDS: Final = 600.0  # without another evaluation, it is given back

DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ETOOMANYREFS)
NO_WORKER: Final = "no worker process could be started"
NO_NURSERY: Final = "the process that starts workers could not be started"


def _wanting(what: str, number: int | None) -> PeerUnavailableError:
    """What the system did not give, by its errno, and what to do."""
    remedy = "raise the limit of open files (ulimit -n)" if number in DESCRIPTORS else "out of memory, or too many processes?"
    return PeerUnavailableError(f"{what} ({os.strerror(number or 0)}): {remedy}")


class _NurseryEndedError(PeerUnavailableError):
    """A nursery has ended, or hangs. What it may still answer is nobody's."""


class WorkerProcess:
    """A running worker, known by its pidfd, and our end of its pipe. Safe for several threads."""

    def __init__(self, pipe: Pipe, pidfd: int, nursery_peak_rss_bytes: int) -> None:
        """nursery_peak_rss_bytes: the most that the nursery had held when it forked this worker; all that it does is fork."""
        self.pipe = pipe
        self.nursery_peak_rss_bytes = nursery_peak_rss_bytes
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
        """Raises PeerUnavailableError: the system gives no process, or no descriptor."""
        self._asking = threading.Lock()
        self._ended = False  # and so is the socket's use: an answer that comes late would go to who asks next
        try:
            self._control, theirs = socket.socketpair()
            with theirs, ExitStack() as failing:
                failing.enter_context(self._control)
                self._control.settimeout(FORK_SECONDS)
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **ALLOCATOR, **ONE_THREAD},
                    process_group=0,  # Ctrl-C at a terminal is the server's to handle, during the nursery's imports too
                )
                failing.pop_all()
        except OSError as error:
            raise _wanting(NO_NURSERY, error.errno) from error

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def fork(self) -> WorkerProcess:
        """A fresh worker.

        Raises _NurseryEndedError: it has ended, or hangs. PeerUnavailableError: the system gives no process, or no descriptor;
        then it goes on.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise _wanting(NO_WORKER, error.errno) from error
        with theirs, ExitStack() as failing:
            failing.enter_context(ours)  # a worker that nobody knows of sees its pipe's end, and ends
            pipe = Pipe(ours)
            worker = WorkerProcess(pipe, *self._forked_on(theirs))
            failing.pop_all()
        return worker

    def _forked_on(self, theirs: socket.socket) -> tuple[int, int]:
        """A worker's pidfd, and the nursery's peak memory in bytes."""
        with self._asking:
            if self._ended:
                raise _NurseryEndedError("the process that starts workers has ended")
            self._ended = True  # until it has answered
            try:
                socket.send_fds(self._control, [b"w"], [theirs.fileno()])
            except (BrokenPipeError, ConnectionResetError, TimeoutError) as error:
                raise _NurseryEndedError("the process that starts workers has ended") from error
            except OSError as error:
                self._ended = False  # it was asked nothing
                raise _wanting(NO_WORKER, error.errno) from error
            try:
                answer, descriptors, _, _ = socket.recv_fds(self._control, ANSWER.size, 1)
            except OSError as error:
                raise _NurseryEndedError(f"the process that starts workers does not answer: {error}") from error
            if len(answer) != ANSWER.size:
                raise _NurseryEndedError("the process that starts workers has ended")
            self._ended = False
        kind, number = ANSWER.unpack(answer)
        if kind != FORKED:
            raise _wanting(NO_WORKER, number)
        if not descriptors:  # it came, and found no room here
            raise _wanting(NO_WORKER, errno.EMFILE)
        return descriptors[0], number

    def close(self) -> None:
        """End it and its workers, whatever it does; who waits for a fork is told that it has ended."""
        self._process.kill()
        self._process.wait()
        with self._asking:  # whose turn it is has seen the end; the descriptor is not closed under its hands
            self._ended = True
            self._control.close()


class _Spare:
    """A worker that waits for a job with its memory touched; after SPARE_SECONDS without, `give_back` is called with it."""

    def __init__(self, worker: WorkerProcess, size: int, give_back: Callable[["_Spare"], None]) -> None:
        """size: of what it touches, in bytes. Raises RuntimeError: no thread can be had."""
        self._worker = worker
        self._size = size
        self._patience = threading.Timer(SPARE_SECONDS, give_back, (self,))
        self._patience.daemon = True
        self._patience.start()

    def taken(self, size: int) -> WorkerProcess | None:
        """The worker, for an evaluation that touches so many bytes; None, and it is ended, where it has ended or touched more."""
        self._no_more_patience()
        if self._size <= size and self._worker.running:
            return self._worker
        self._worker.stop()
        return None

    def end(self) -> None:
        """End the worker."""
        self._no_more_patience()
        self._worker.stop()

    def _no_more_patience(self) -> None:
        self._patience.cancel()
        del self._patience  # which refers to us: the worker's descriptors would stay until somebody looks for cycles


class WorkerPool:
    """Hands out fresh workers. Safe for several threads: none waits for one that waits for a fork, except to fork."""

    def __init__(self, module: str = NURSERY) -> None:
        """module: what the nursery runs; the security evaluation breaks one on purpose. Raises PeerUnavailableError."""
        self._module = module
        self._lock = threading.Lock()
        self._nursery = _Nursery(module)
        self._closed = False
        self._spare: _Spare | None = None
        self._maker: threading.Thread | None = None  # of the spare one
        self._given_out: weakref.WeakSet[WorkerProcess] = weakref.WeakSet()
        self.on_restart: Callable[[], None] = lambda: None  # called where the nursery had ended by itself

    def take(self, size: int) -> WorkerProcess:
        """A worker that had no job yet: the spare one, or a fresh one. The caller stops it.

        size: bytes that its evaluation will touch. A spare one that has touched more is not used: what an evaluation reports as
        its peak says nothing of the one before. Raises PeerUnavailableError: the system gives no process, or no descriptor, or
        we are closed.
        """
        if (maker := self._maker) is not None:
            maker.join()  # it waits for a fork at most, as we should have to
        worker = None
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            worker = spare.taken(size)
        if worker is None:
            worker = self._fresh()
        self._given_out.add(worker)
        return worker

    def keep_spare(self, size: int) -> None:
        """Have a worker ready for the next evaluation, that has touched `size` bytes by then; in the background.

        A worker is a process of its own that begins with no memory, and a first touch of a page is dear. None is made while
        another evaluation holds memory. Where none can be had, the next evaluation does without.
        """
        if size < LEAST_SPARE_BYTES or any(worker.running for worker in list(self._given_out)):
            return
        with self._lock:
            if self._closed or self._spare is not None or (self._maker is not None and self._maker.is_alive()):
                return
            self._maker = threading.Thread(
                target=self._make_spare, args=(min(size, MOST_SPARE_BYTES),), name="spare", daemon=True
            )
            try:
                self._maker.start()
            except RuntimeError:  # no thread can be had
                self._maker = None

    def _make_spare(self, size: int) -> None:
        try:
            worker = self._fresh()
        except PeerUnavailableError:
            return
        try:
            worker.pipe.send(Kind.WARM, label=(size - size // 8) >> 20)  # not all of it lives at once
            with self._lock:
                if not self._closed:
                    self._spare = _Spare(worker, size, self._give_back)  # which is not called before the lock is free
                    return
        except (OSError, RuntimeError):
            pass  # the worker has ended, or no thread can be had
        worker.stop()

    def _give_back(self, spare: "_Spare") -> None:
        """End this spare worker, if it still is one."""
        with self._lock:
            if self._spare is not spare:
                return
            self._spare = None
        spare.end()

    def _fresh(self) -> WorkerProcess:
        nursery = self._nursery
        try:
            return nursery.fork()
        except _NurseryEndedError:  # killed for want of memory, say, and its workers with it
            nursery = self._replaced(nursery)
        try:
            return nursery.fork()
        except _NurseryEndedError:
            nursery.close()  # it may hang, holding what we asked for
            raise PeerUnavailableError("the process that starts workers does not start; see this server's log") from None

    def require_warm(self) -> None:
        """Raises PeerUnavailableError, once, where the nursery had ended; it is started anew, or cannot be."""
        nursery = self._nursery
        if self._closed or nursery.running:
            return
        self._replaced(nursery)
        raise PeerUnavailableError("the process that starts workers had ended: out of memory? see this server's log")

    def close(self) -> None:
        """End the nursery, and with it every worker. None is started after."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
            self._nursery.close()
        if spare is not None:
            spare.end()

    def _replaced(self, ended: _Nursery) -> _Nursery:
        """The one after this nursery, which is ended; who asks first starts it.

        Raises PeerUnavailableError: we are closed, or the system gives no process, or no descriptor.
        """
        with self._lock:
            if self._closed:
                raise PeerUnavailableError("this server is stopping")
            if self._nursery is ended:
                ended.close()
                self._nursery = _Nursery(self._module)
                self.on_restart()
            return self._nursery
