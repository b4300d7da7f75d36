"""Worker processes: forked in a moment, one evaluation each, none that outlives its use, its nursery or its server."""

import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from protocols.errors import PeerUnavailableError
from server import worker_pool
from server.nursery_answer import ANSWER, FAILED
from server.worker_pool import WorkerPool
from tests.server import idle_nursery
from tests.server.idle_pool import IDLE, SECONDS, idle_pool, nursery_of, pid, until
from tests.server.joined_workers import ROOT, Processes

pytestmark = pytest.mark.integration
SERVER = """
import sys
from server.worker_pool import WorkerPool
from tests.server.idle_pool import IDLE, pid
pool = WorkerPool(IDLE)
workers = [pool.take(0), pool.take(0)]
print(pool._nursery._process.pid, *map(pid, workers), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def pool(monkeypatch):
    with idle_pool(monkeypatch) as pool:
        yield pool


def test_each_evaluation_has_a_process_of_its_own_that_the_nursery_forked(pool):
    first, second = pool.take(0), pool.take(0)
    assert pid(first) != pid(second)
    assert {psutil.Process(pid(worker)).ppid() for worker in (first, second)} == {nursery_of(pool)}
    for worker in (first, second):
        worker.stop()


def test_a_worker_comes_with_what_its_nursery_has_held(pool):
    """The kernel counts in batches."""
    worker = pool.take(0)
    held = psutil.Process(nursery_of(pool)).memory_info().rss
    assert 0.95 * held < worker.nursery_peak_rss_bytes < 4 * held
    worker.stop()


def test_stopping_ends_the_process_whatever_it_does_and_leaves_nothing_of_it(pool):
    worker = pool.take(0)
    number = pid(worker)
    os.kill(number, signal.SIGSTOP)
    worker.stop()
    assert not worker.running
    until(lambda: not psutil.pid_exists(number))  # no zombie either: the nursery reaps it
    worker.stop()


def test_killing_from_another_thread_wakes_its_owner_who_stops_it_after_all(pool):
    worker = pool.take(0)
    assert not worker.ended(0.01)
    os.kill(pid(worker), signal.SIGSTOP)
    worker.kill()
    assert worker.pipe.receive_header() is None
    assert worker.ended(SECONDS)
    worker.kill()
    worker.stop()
    worker.kill()


def test_a_nursery_that_was_killed_is_replaced_and_its_workers_end(pool):
    restarts = []
    pool.on_restart = lambda: restarts.append(1)
    orphan, dead = pool.take(0), nursery_of(pool)
    os.kill(dead, signal.SIGKILL)
    assert orphan.ended(SECONDS)
    worker = pool.take(0)
    assert nursery_of(pool) != dead
    assert worker.running
    assert len(restarts) == 1
    worker.stop()


def test_a_nursery_that_ended_is_told_once_replaced_and_counted(pool):
    restarts = []
    pool.on_restart = lambda: restarts.append(1)
    pool.require_warm()
    os.kill(nursery_of(pool), signal.SIGKILL)
    until(lambda: not pool._nursery.running)
    with pytest.raises(PeerUnavailableError, match="out of memory"):
        pool.require_warm()
    pool.require_warm()  # told once
    assert len(restarts) == 1
    worker = pool.take(0)
    assert worker.running
    worker.stop()


@contextmanager
def without_descriptors(process: int = 0):
    """This process, or another, opens none in the block; those that it has it keeps."""
    before = resource.prlimit(process, resource.RLIMIT_NOFILE)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (3, before[1]))  # the three standard streams are open
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)


@pytest.fixture
def lacking(monkeypatch):
    """Pools whose nursery lacks what is named."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = []

    def pool_lacking(name):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            made.append(WorkerPool(IDLE))
        return made[-1]

    yield pool_lacking
    for pool in made:
        pool.close()


@pytest.fixture
def pairs(monkeypatch):
    """Every socket pair that is made. `refused`: after how many there is none."""

    class Pairs(list):
        refused = None

    made, real = Pairs(), socket.socketpair

    def pair():
        if made.refused is not None and len(made) >= made.refused:
            raise OSError(errno.EMFILE, "on purpose")
        made.append(real())
        return made[-1]

    monkeypatch.setattr(socket, "socketpair", pair)
    return made


def test_a_system_without_processes_is_told(lacking, pairs):
    poor = lacking(idle_nursery.NO_PROCESS)
    pairs.clear()
    with pytest.raises(PeerUnavailableError, match="no worker process could be started .*too many processes"):
        poor.take(0)
    assert [end.fileno() for pair in pairs for end in pair] == [-1, -1]  # closed here, not when it is collected
    poor.require_warm()  # the nursery goes on


def test_a_server_without_descriptors_says_so_and_its_workers_run_on(pool):
    worker, before = pool.take(0), nursery_of(pool)
    with without_descriptors(), pytest.raises(PeerUnavailableError, match="no worker process .*limit of open files"):
        pool.take(0)
    assert worker.running
    pool.take(0).stop()
    assert nursery_of(pool) == before
    worker.stop()


def test_a_pidfd_that_finds_no_room_is_told_and_the_workers_run_on(pool, monkeypatch):
    worker, before, received = pool.take(0), nursery_of(pool), socket.recv_fds

    def truncated(*arguments):
        answer, descriptors, *rest = received(*arguments)
        for descriptor in descriptors:
            os.close(descriptor)
        return answer, [], *rest

    with monkeypatch.context() as patch:
        patch.setattr(socket, "recv_fds", truncated)
        with pytest.raises(PeerUnavailableError, match="limit of open files"):
            pool.take(0)
    assert worker.running
    until(lambda: len(psutil.Process(before).children()) == 1)  # the one whose pidfd was lost has ended
    pool.take(0).stop()
    assert nursery_of(pool) == before
    worker.stop()


def test_a_nursery_that_the_system_refuses_is_told_and_started_when_it_can_be(pool, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.ENOMEM, "on purpose")

    os.kill(nursery_of(pool), signal.SIGKILL)
    until(lambda: not pool._nursery.running)
    with without_descriptors(), pytest.raises(PeerUnavailableError, match="could not be started .*limit of open files"):
        pool.require_warm()
    for ask in (pool.require_warm, partial(pool.take, 0), lambda: WorkerPool(IDLE)):
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", refused)
            with pytest.raises(PeerUnavailableError, match="could not be started .*out of memory"):
                ask()
    pool.take(0).stop()


def test_a_second_fork_that_is_refused_leaves_the_new_nursery_to_the_others(pool, pairs):
    os.kill(nursery_of(pool), signal.SIGKILL)
    until(lambda: not pool._nursery.running)
    pairs.refused = 2  # the first worker's and the new nursery's
    with pytest.raises(PeerUnavailableError, match="limit of open files"):
        pool.take(0)
    pairs.refused = None
    started = pool._nursery
    assert started.running
    pool.take(0).stop()
    assert pool._nursery is started


def test_an_answer_that_comes_late_goes_to_nobody(pool):
    pool.take(0).stop()
    nursery, hung = pool._nursery, nursery_of(pool)
    nursery._control.settimeout(0.1)
    os.kill(hung, signal.SIGSTOP)
    with pytest.raises(worker_pool._NurseryEndedError):
        nursery.fork()
    os.kill(hung, signal.SIGCONT)
    assert select.select([nursery._control], [], [], SECONDS)[0]
    with pytest.raises(worker_pool._NurseryEndedError):
        nursery.fork()
    worker = pool.take(0)
    assert nursery_of(pool) != hung
    worker.stop()


def test_a_request_that_lacks_its_descriptor_is_refused_and_the_workers_run_on(pool):
    worker, before = pool.take(0), nursery_of(pool)
    with without_descriptors(before), pytest.raises(PeerUnavailableError, match="limit of open files"):
        pool.take(0)
    pool._nursery._control.send(b"w")
    assert ANSWER.unpack(pool._nursery._control.recv(ANSWER.size)) == (FAILED, errno.EMFILE)
    assert worker.running
    pool.take(0).stop()
    assert nursery_of(pool) == before
    worker.stop()


def test_a_worker_without_a_pidfd_is_ended_and_the_others_run_on(lacking):
    pool = lacking(idle_nursery.NO_SECOND_PIDFD)
    worker, before = pool.take(0), nursery_of(pool)
    with pytest.raises(PeerUnavailableError, match="limit of open files"):
        pool.take(0)
    assert worker.running
    until(lambda: [child.pid for child in psutil.Process(before).children()] == [pid(worker)])
    pool.take(0).stop()
    assert nursery_of(pool) == before
    worker.stop()


def test_a_nursery_has_no_copy_of_a_workers_pipe_when_it_has_answered(lacking):
    """With one, the server would not see the pipe's end when the worker ends."""
    pool = lacking(idle_nursery.STOPS_WHEN_IT_HAS_ANSWERED)
    worker, nursery = pool.take(0), nursery_of(pool)
    until(lambda: psutil.Process(nursery).status() == "stopped")
    os.kill(pid(worker), signal.SIGKILL)
    assert worker.ended(SECONDS)
    assert select.select([worker.pipe._socket], [], [], 0)[0]
    assert worker.pipe.receive_header() is None
    os.kill(nursery, signal.SIGCONT)
    worker.stop()


def test_closing_the_pool_ends_nursery_and_workers(pool):
    worker, nursery = pool.take(0), pool._nursery
    pool.close()
    assert worker.ended(SECONDS)
    assert not nursery.running
    pool.close()
    pool.require_warm()  # nothing is missing


def test_a_hung_nursery_holds_up_neither_the_health_check_nor_the_end(pool):
    pool.take(0).stop()
    hung = nursery_of(pool)
    os.kill(hung, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(partial(pool.take, 0))
        until(pool._nursery._asking.locked)
        pool.require_warm()
        pool.close()
        with pytest.raises(PeerUnavailableError, match="stopping"):
            waiting.result(SECONDS)
    assert not psutil.pid_exists(hung)


def test_a_closed_pool_starts_nothing(pool):
    pool.close()
    closed = nursery_of(pool)
    with pytest.raises(PeerUnavailableError, match="stopping"):
        pool.take(0)
    assert nursery_of(pool) == closed


def test_a_nursery_that_cannot_start_is_told(pool):
    pool._module = "tests.server.no_such_nursery"
    os.kill(nursery_of(pool), signal.SIGKILL)
    with pytest.raises(PeerUnavailableError, match="does not start"):
        pool.take(0)
    pool._module = IDLE
    pool.take(0).stop()


def test_several_threads_that_find_the_nursery_ended_start_one(pool):
    restarts = []
    pool.on_restart = lambda: restarts.append(1)
    os.kill(nursery_of(pool), signal.SIGKILL)
    with ThreadPoolExecutor(8) as others:
        for worker in others.map(lambda _: pool.take(0), range(8)):
            assert worker.running
            worker.stop()
    assert len(restarts) == 1


def test_descriptors_of_workers_are_given_back(pool):
    pool.take(0).stop()
    held = set(os.listdir("/proc/self/fd"))
    in_nursery = psutil.Process(nursery_of(pool)).num_fds()
    for _ in range(30):
        pool.take(0).stop()
    assert len(set(os.listdir("/proc/self/fd")) - held) <= 2
    until(lambda: psutil.Process(nursery_of(pool)).num_fds() <= in_nursery)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_server_that_is_killed(number):
    command = [sys.executable, "-c", SERVER]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as server:
        started = [int(text) for text in server.stdout.readline().split()]
        assert all(psutil.pid_exists(one) for one in started)
        server.send_signal(number)
        server.wait(SECONDS)
    until(lambda: not any(psutil.pid_exists(one) and psutil.Process(one).status() != "zombie" for one in started))


def test_ctrl_c_does_not_end_the_nursery(pool):
    """During its imports it would: a terminal's goes to the server's process group alone."""
    assert os.getpgid(nursery_of(pool)) != os.getpgrp()
    pool.take(0).stop()
    os.kill(nursery_of(pool), signal.SIGINT)
    worker = pool.take(0)
    assert worker.running
    worker.stop()


def test_the_nursery_has_no_grpc_and_one_thread(pool):
    """What else ran in it would be lost in a fork, locks held."""
    worker = pool.take(0)
    maps = Path(f"/proc/{nursery_of(pool)}/maps").read_text()
    assert "libtorch" in maps
    assert "cygrpc" not in maps
    assert psutil.Process(nursery_of(pool)).num_threads() == 1
    worker.stop()


def test_a_nursery_with_a_second_thread_forks_nothing(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(idle_nursery.SECOND_THREAD, "1")  # of the one that replaces it too
    threaded = WorkerPool(IDLE)
    with pytest.raises(PeerUnavailableError, match="does not start"):
        threaded.take(0)
    threaded.close()


def test_a_worker_whose_parent_ended_before_it_could_ask_to_end_with_it_ends():
    code = "import os; from server.worker import end_with_the_server; end_with_the_server(parent=os.getppid() + 1); print('on')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")


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
