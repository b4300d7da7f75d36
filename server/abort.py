"""Stops a session from another thread, and says when nothing of it is left: the edge has gone, or the server shuts down.

gRPC calls this in the one thread that takes all of its events, so nothing here waits. The session's own thread may be anywhere,
in a call to a dealer that says nothing too; so the worker's end and what follows it (the turn is given back) do not rest on it.
"""

import threading
from collections.abc import Callable
from typing import Final

import structlog

from protocols.errors import SessionBrokenError
from server.peer_channel import PeerChannel
from server.worker_pool import WorkerProcess

REAP_SECONDS: Final = 30.0  # SIGKILL to the end of a process that gives back some GiB; beyond it the kernel is stuck

log = structlog.get_logger("server")


class Abort:
    """One session's end from outside. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: PeerChannel | None = None
        self._workers: list[WorkerProcess] = []
        self._wake: list[Callable[[], object]] = []
        self._last: list[Callable[[], object]] = []
        self._aborted = False
        self._reaped = False
        self.cancelled = False  # by the edge

    def also(self, wake: Callable[[], object]) -> None:
        """Called when the session is stopped, after `aborted` is true; at once where it was stopped already."""
        with self._lock:
            self._wake.append(wake)
            aborted = self._aborted
        if aborted:
            wake()

    def last(self, action: Callable[[], object]) -> None:
        """Called when the session was stopped and its workers have ended, so that no more workers hold memory than two."""
        with self._lock:
            self._last.append(action)
            reaped = self._reaped
        if reaped:
            action()

    @property
    def aborted(self) -> bool:
        """Whether the session was stopped from outside."""
        with self._lock:
            return self._aborted

    def watch(self, worker: WorkerProcess) -> None:
        """A worker to stop. Raises SessionBrokenError where the session was aborted already."""
        with self._lock:
            if self._aborted:
                raise SessionBrokenError("the session was cancelled: the caller has gone, or the other server")
            self._workers.append(worker)

    def forget(self, worker: WorkerProcess) -> None:
        """This worker has ended."""
        with self._lock:
            self._workers = [other for other in self._workers if other is not worker]

    def watch_channel(self, channel: PeerChannel) -> None:
        """The channel to close."""
        with self._lock:
            self._channel = channel
            if self._aborted:
                channel.abort()

    def release(self) -> None:
        """The session has ended by itself: there is nothing left to stop."""
        with self._lock:
            self._channel = None
            self._workers.clear()
            self._wake.clear()

    def __call__(self) -> None:
        """The edge has gone."""
        self.cancelled = True
        self.interrupt()

    def interrupt(self) -> None:
        """Close the channel and kill the workers; whoever waits on them, or in the queue, is woken. Returns at once."""
        with self._lock:
            if self._aborted:
                return
            self._aborted = True
            wake, workers = list(self._wake), list(self._workers)
            if self._channel is not None:
                self._channel.abort()
            for worker in workers:
                worker.kill()
        for action in wake:
            action()
        if workers:
            threading.Thread(target=self._reap, args=(workers,), name="reaper", daemon=True).start()
        else:
            self._end()

    def _reap(self, workers: list[WorkerProcess]) -> None:
        if not all([worker.ended(REAP_SECONDS) for worker in workers]):
            log.error("worker has not ended", seconds=REAP_SECONDS)
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._reaped = True
            last = list(self._last)
        for action in last:
            action()
