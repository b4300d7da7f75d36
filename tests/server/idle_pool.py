"""A pool of workers that do nothing, and what tests ask of it and of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.worker_pool import WorkerPool, WorkerProcess
from tests.server.joined_workers import ROOT

IDLE = "tests.server.idle_nursery"
SECONDS = 30


@contextmanager
def idle_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    """Closed at the end."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pool = WorkerPool(IDLE)
    yield pool
    pool.close()


def pid(worker: WorkerProcess) -> int:
    lines = Path(f"/proc/self/fdinfo/{worker._pidfd}").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pid:")))


def nursery_of(pool: WorkerPool) -> int:
    return pool._nursery._process.pid


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()
