"""The worker that is ready for the next evaluation, its memory touched: who gets it, and that nothing of it stays."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from protocols.errors import PeerUnavailableError
from server import worker_pool
from server.pipe import Kind
from server.worker_pool import WorkerPool, WorkerProcess
from tests.server.idle_pool import SECONDS, idle_pool, nursery_of, pid, until

pytestmark = pytest.mark.integration
MEGABYTE = 1 << 20


@pytest.fixture
def pool(monkeypatch):
    with idle_pool(monkeypatch) as pool:
        yield pool


def spare_of(pool: WorkerPool) -> WorkerProcess:
    until(lambda: pool._spare is not None)
    return pool._spare._worker


def held(worker: WorkerProcess) -> int:
    return psutil.Process(pid(worker)).memory_info().rss


def test_the_next_evaluation_finds_a_worker_that_has_touched_its_memory():
    pool = WorkerPool()  # of workers that do their work
    try:
        cold = pool.take(0)
        before = held(cold)
        pool.keep_spare(200 * MEGABYTE)
        assert pool._maker is None  # not beside a worker that holds memory
        cold.stop()
        pool.keep_spare(200 * MEGABYTE)
        pool.keep_spare(200 * MEGABYTE)  # there is one, or there will be
        spare = spare_of(pool)
        until(lambda: held(spare) > before + 170 * MEGABYTE)
        taken, other = pool.take(200 * MEGABYTE), pool.take(200 * MEGABYTE)
        assert taken is spare
        assert pid(other) != pid(taken)  # one evaluation each
        taken.pipe.send(Kind.JOB, b"no job")
        assert taken.ended(SECONDS)  # of what is no job: it had been waiting for one
    finally:
        pool.close()


def test_who_comes_while_the_spare_worker_is_made_gets_it(pool, monkeypatch):
    """And no second one, beside which it would touch its memory."""
    asked, answer, fresh = threading.Event(), threading.Event(), pool._fresh

    def slow():
        asked.set()
        assert answer.wait(SECONDS)
        return fresh()

    monkeypatch.setattr(pool, "_fresh", slow)
    pool.keep_spare(100 * MEGABYTE)
    assert asked.wait(SECONDS)
    with ThreadPoolExecutor(1) as other:
        taken = other.submit(pool.take, 100 * MEGABYTE)
        answer.set()
        worker = taken.result(SECONDS)
    assert [child.pid for child in psutil.Process(nursery_of(pool)).children()] == [pid(worker)]
    assert pool._spare is None


def test_a_smaller_evaluation_does_not_take_a_worker_that_has_touched_more(pool):
    """What it reports as its peak would tell its edge how large the evaluation before was."""
    pool.keep_spare(200 * MEGABYTE)
    spare = spare_of(pool)
    worker = pool.take(200 * MEGABYTE - 1)
    assert worker is not spare
    assert spare.ended(SECONDS)


@pytest.mark.parametrize(("size", "made"), [(worker_pool.LEAST_SPARE_BYTES - 1, 0), (worker_pool.LEAST_SPARE_BYTES, 1)])
def test_little_memory_is_not_worth_a_spare_worker(pool, monkeypatch, size, made):
    sizes = []
    monkeypatch.setattr(pool, "_make_spare", sizes.append)
    pool.keep_spare(size)
    if pool._maker is not None:
        pool._maker.join()
    assert sizes == made * [size]


def test_a_spare_worker_that_has_ended_is_not_handed_out(pool):
    pool.keep_spare(100 * MEGABYTE)
    spare = spare_of(pool)
    os.kill(pid(spare), signal.SIGKILL)
    assert spare.ended(SECONDS)
    worker = pool.take(100 * MEGABYTE)
    assert worker is not spare
    assert worker.running


def test_a_spare_worker_is_given_back_after_a_while(pool, monkeypatch):
    monkeypatch.setattr(worker_pool, "SPARE_SECONDS", 0.01)
    made, forked = [], pool._fresh
    monkeypatch.setattr(pool, "_fresh", lambda: made.append(forked()) or made[-1])
    pool.keep_spare(100 * MEGABYTE)
    until(lambda: made and not made[0].running)
    until(lambda: pool._spare is None)


def test_spare_workers_leave_no_thread_and_no_descriptor(pool):
    def round_of_one():
        pool.keep_spare(100 * MEGABYTE)
        spare_of(pool)
        pool.take(100 * MEGABYTE).stop()

    round_of_one()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        round_of_one()
    until(lambda: threading.active_count() <= threads)
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_spare_worker_ends_with_its_pool_and_one_that_comes_later_at_once(pool, monkeypatch):
    pool.keep_spare(100 * MEGABYTE)
    spare, late = spare_of(pool), pool._fresh()
    pool.close()
    assert spare.ended(SECONDS)
    stopped = []
    monkeypatch.setattr(late, "stop", lambda: stopped.append(late))
    monkeypatch.setattr(late.pipe, "send", lambda *_, **__: None)
    monkeypatch.setattr(pool, "_fresh", lambda: late)
    pool._make_spare(100 * MEGABYTE)  # which was asked for before
    assert stopped == [late]
    assert pool._spare is None


def test_without_a_process_there_is_no_spare_worker_and_nobody_is_told(pool, monkeypatch):
    def refused():
        raise PeerUnavailableError("no process")

    monkeypatch.setattr(pool, "_fresh", refused)
    pool._make_spare(100 * MEGABYTE)
    assert pool._spare is None
