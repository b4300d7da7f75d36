"""Forks workers: `python -m server.nursery FD`. It has its imports done, so that a worker is there in a moment.

It sees descriptors and nothing else: a worker's job, with every key and share, comes through the worker's own pipe after the
fork, and is gone with it. Forks begin alike, but what a worker draws comes from its job, never from its process, so that no
value depends on it. One thread, without gRPC: nothing but the forking thread is lost in a fork.

It ends when its server closes the control socket or ends, in whatever way; its workers end with it.
"""

import errno
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from proto.peak_memory import peak_memory_bytes
from server import crypten_runtime, worker
from server.nursery_answer import ANSWER, FAILED, FORKED


def nurse(control: socket.socket) -> None:
    """Answer each request, which should bring a descriptor, with a worker on it; return when the server has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        try:
            request, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not request:
                return
            _answer(control, descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return


def _answer(control: socket.socket, descriptors: Sequence[int]) -> None:
    """With a worker's pidfd; or, where the system does not give what that takes, with why, and no worker is left of it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # a worker is not reaped before its pidfd is open
    try:
        with ExitStack() as failing:
            pid = _fork(control, descriptors)
            failing.callback(os.kill, pid, signal.SIGKILL)  # without a pidfd nobody could end it
            _send_pidfd(control, pid)
            failing.pop_all()
    except (BrokenPipeError, ConnectionResetError):
        raise  # the server has gone
    except OSError as error:
        control.send(ANSWER.pack(FAILED, error.errno or 0))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def _fork(control: socket.socket, descriptors: Sequence[int]) -> int:
    """The process id of a worker on the descriptor, which stays open in the worker alone. Raises OSError."""
    if not descriptors:
        raise OSError(errno.EMFILE, "a worker's end of its pipe did not arrive")
    nursery = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            _become_worker(control, descriptors[0], nursery)
        return pid
    finally:
        os.close(descriptors[0])


def _send_pidfd(control: socket.socket, pid: int) -> None:
    """Raises OSError."""
    pidfd = os.pidfd_open(pid)
    try:
        socket.send_fds(control, [ANSWER.pack(FORKED, peak_memory_bytes())], [pidfd])
    finally:
        os.close(pidfd)


def _become_worker(control: socket.socket, descriptor: int, nursery: int) -> None:
    """Does not return. Run in the fork."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        control.close()
        worker.run(descriptor, parent=nursery)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _reap(*_: Any) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass  # none is left


def require_one_thread() -> None:
    """Raises RuntimeError: another thread runs, and what it holds would stay held for ever in a fork."""
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise RuntimeError(f"{threads} threads run where workers are forked; no other may")


def main() -> None:
    """Entry point: the file descriptor of our end of the control socket is the only argument."""
    torch.set_num_threads(1)
    crypten_runtime.import_crypten()
    require_one_thread()
    nurse(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
