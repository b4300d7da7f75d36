"""Worker processes: one warm, one evaluation each, none that outlives its use."""

import os
import signal
import time
from pathlib import Path

import pytest

from protocols.errors import PeerUnavailableError
from server.worker_pool import WorkerPool, WorkerProcess
from tests.server.joined_workers import ROOT, Processes

pytestmark = pytest.mark.integration
IDLE = "tests.server.idle_worker"
SECONDS = 30


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pool = WorkerPool(IDLE)
    yield pool
    pool.close()


def pid(worker: WorkerProcess) -> int:
    return worker._process.pid


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_each_evaluation_has_a_process_of_its_own(pool):
    spare = pool._spare
    first, second = pool.take(), pool.take()
    assert first is spare
    assert pid(first) != pid(second)
    pool.refill()
    assert pool._spare not in (None, first, second)
    pool.refill()
    for worker in (first, second):
        worker.stop()


def test_stopping_ends_the_process_whatever_it_does(pool):
    worker = pool.take()
    os.kill(pid(worker), signal.SIGSTOP)
    worker.stop()
    assert not worker.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid(worker), 0)


def test_killing_from_another_thread_wakes_its_owner_who_stops_it_after_all(pool):
    worker = pool.take()
    assert not worker.ended(0.01)
    os.kill(pid(worker), signal.SIGSTOP)
    worker.kill()
    assert worker.pipe.receive_header() is None
    assert worker.ended(SECONDS)
    worker.kill()
    worker.stop()
    worker.kill()


def test_a_spare_that_was_killed_is_replaced(pool):
    dead = pool._spare
    os.kill(pid(dead), signal.SIGKILL)
    until(lambda: not dead.running)
    worker = pool.take()
    assert worker is not dead
    assert worker.running
    worker.stop()


def test_closing_the_pool_ends_the_spare(pool):
    spare = pool._spare
    pool.close()
    assert not spare.running
    pool.close()


def test_a_worker_leaves_no_core_and_ends_with_its_server():
    """Its memory holds shares and keys: a crash must not write it to a disk, and a server's end ends it."""
    processes = Processes()
    pipe = processes.start()
    (process,) = processes._started
    limits = Path(f"/proc/{process.pid}/limits")

    def core_limits():
        line = next(line for line in limits.read_text().splitlines() if line.startswith("Max core file size"))
        return line.split()[4:6]

    until(lambda: core_limits() == ["0", "0"])
    pipe.close()
    processes.wait()
    assert process.returncode == 0


def test_a_spare_that_ended_is_told_once_replaced_and_counted(pool):
    restarts = []
    pool.on_restart = lambda: restarts.append(1)
    pool.require_warm()
    dead = pool._spare
    os.kill(pid(dead), signal.SIGKILL)
    until(lambda: not dead.running)
    with pytest.raises(PeerUnavailableError, match="out of memory"):
        pool.require_warm()
    pool.require_warm()  # told once
    assert len(restarts) == 1
    # Started by who takes it: a worker is killed when the thread that started it ends, and the readiness thread is short-lived.
    assert pool._spare is None
    worker = pool.take()
    assert worker.running
    pool.require_warm()  # none is missing while one evaluates
    worker.stop()
