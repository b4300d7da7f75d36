"""Ending a session from another thread: nothing waits in it, and what comes last comes when the worker has ended, always."""

import threading

import pytest

from protocols.errors import SessionBrokenError
from protocols.identifiers import Role
from server import abort as abort_module
from server.abort import Abort
from server.peer_channel import PeerChannel
from tests.server.fake_workers import FakeWorkers

SECONDS = 20


@pytest.fixture
def workers():
    workers = FakeWorkers()
    workers.behaviour["clings"] = True
    yield workers
    for worker in workers.taken:
        worker.gone.set()


def test_what_is_last_waits_for_the_worker_and_the_caller_does_not(workers):
    stop, worker, woken, last = Abort(), workers.take(), threading.Event(), threading.Event()
    stop.watch(worker)
    stop.also(woken.set)
    stop.last(last.set)
    stop()  # returns, though the worker clings
    assert woken.is_set()
    assert stop.cancelled
    assert stop.aborted
    assert not last.wait(0.2)
    worker.gone.set()
    assert last.wait(SECONDS)


def test_killing_wakes_who_waits_for_the_worker(workers):
    stop, worker = Abort(), workers.take()
    stop.watch(worker)
    stop()
    assert worker.pipe.receive_header() is None


def test_a_worker_that_never_ends_keeps_the_last_step_for_a_bounded_time(workers, monkeypatch):
    monkeypatch.setattr(abort_module, "REAP_SECONDS", 0.05)
    stop, last = Abort(), threading.Event()
    stop.watch(workers.take())
    stop.last(last.set)
    stop()
    assert last.wait(SECONDS)


def test_without_a_worker_all_is_done_at_once():
    done = []
    stop = Abort()
    stop.last(lambda: done.append("last"))
    stop.also(lambda: done.append("also"))
    stop()
    assert done == ["also", "last"]


def test_what_comes_after_the_end_is_done_at_once(workers):
    done = []
    stop, channel = Abort(), PeerChannel(Role.B)
    broken_off = threading.Event()
    channel.attach(iter(()), cancel=broken_off.set)
    stop()
    stop.also(lambda: done.append("also"))
    stop.last(lambda: done.append("last"))
    stop.watch_channel(channel)
    assert done == ["also", "last"]
    assert broken_off.is_set()
    with pytest.raises(SessionBrokenError, match="cancelled"):
        stop.watch(workers.take())


def test_a_session_is_ended_once(workers):
    killed, done = [], []
    stop, worker = Abort(), workers.take()
    worker.kill = lambda: killed.append(1)
    worker.gone.set()
    last = threading.Event()
    stop.watch(worker)
    stop.also(lambda: done.append(1))
    stop.last(last.set)
    stop.interrupt()
    stop()
    assert last.wait(SECONDS)
    assert (killed, done) == ([1], [1])


def test_a_session_that_has_ended_by_itself_leaves_nothing_to_stop(workers):
    stop, worker, woken = Abort(), workers.take(), threading.Event()
    stop.watch(worker)
    stop.also(woken.set)
    stop.release()
    stop()
    assert not woken.is_set()
    worker.gone.set()
    worker.stop()
