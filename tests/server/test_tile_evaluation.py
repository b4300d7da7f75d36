"""An evaluation that ends while its material comes: no descriptor is closed under a thread that uses it, no worker is left."""

import threading

import pytest

from proto import darkroom_pb2 as pb
from protocols.engines import MASKED, session_plan
from protocols.errors import PeerUnavailableError, SessionBrokenError
from protocols.identifiers import PushId, Role
from server import tile_evaluation
from server.abort import Abort
from server.dealer_client import Batch
from server.peer_channel import PeerChannel
from server.pipe import Pipe
from server.tile_evaluation import TileEvaluation
from tests.server.fake_workers import FakeWorkers
from tests.server.joined_servers import NETWORK, SECONDS

PLAN = session_plan(MASKED, NETWORK, 8, 9)


class FullSocket:
    """Takes nothing: who sends waits until the traffic is ended, and a moment more, in which the socket must not be closed."""

    def __init__(self):
        self.sending, self.ended, self.closed = (threading.Event() for _ in range(3))
        self.closed_under_the_sender = None

    def setsockopt(self, *_):
        """No buffer is large enough."""

    def sendall(self, _):
        self.sending.set()
        assert self.ended.wait(SECONDS)
        self.closed_under_the_sender = self.closed.wait(0.3)
        raise BrokenPipeError

    def shutdown(self, _):
        self.ended.set()

    def close(self):
        self.closed.set()


class OneWorker(FakeWorkers):
    """Its pipe is the test's."""

    def __init__(self, end):
        super().__init__()
        self._end = end

    def take(self, size):
        worker = super().take(size)
        worker.pipe = Pipe(self._end)
        return worker


def claimed(_):
    return Batch(bytes(32), iter(()), lambda: None)


def begun(workers, abort, claim=claimed):
    job = pb.WorkerJob(role=Role.A.value)
    return TileEvaluation(
        job, PLAN, PushId("a" * 32), (1, 8, 9), claim=claim, channel=PeerChannel(Role.B), abort=abort, workers=workers
    )


@pytest.fixture
def forgotten(monkeypatch):
    """Workers that an abort was told to forget."""
    seen, forget = [], Abort.forget
    monkeypatch.setattr(Abort, "forget", lambda abort, worker: (seen.append(worker), forget(abort, worker)))
    return seen


def test_the_pipe_is_closed_when_nobody_sends_the_job_any_more(forgotten):
    """The descriptor's number may be a foreign socket's in the next moment, and the rest of the job would go there."""
    end = FullSocket()
    workers = OneWorker(end)
    evaluation = begun(workers, Abort())
    assert end.sending.wait(SECONDS)
    evaluation.stop()
    assert end.closed_under_the_sender is False
    assert end.closed.is_set()
    assert forgotten == workers.taken
    evaluation.stop()
    assert len(forgotten) == 1


def test_the_dealers_answer_is_broken_off_before_the_worker_is_given_back(forgotten):
    order = []
    broken_off = threading.Event()

    def silent(begin):
        begin(broken_off.set)
        assert broken_off.wait(SECONDS)
        order.append("filler")
        raise SessionBrokenError("the call was broken off")

    workers = FakeWorkers()
    evaluation = begun(workers, Abort(), silent)
    stop = workers.taken[0].stop
    workers.taken[0].stop = lambda: (order.append("worker"), stop())
    evaluation.stop()
    assert order == ["filler", "worker"]


def test_a_worker_is_given_back_where_no_thread_can_be_started(forgotten, monkeypatch):
    class NoThreads(tile_evaluation.ThreadPoolExecutor):
        def submit(self, *_):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(tile_evaluation, "ThreadPoolExecutor", NoThreads)
    workers = FakeWorkers()
    with pytest.raises(PeerUnavailableError, match="no thread could be started .can't start new thread"):
        begun(workers, Abort())
    assert workers.taken[0].stopped
    assert forgotten == workers.taken


def test_a_worker_is_given_back_where_the_session_was_stopped_already():
    abort, workers = Abort(), FakeWorkers()
    abort()
    with pytest.raises(SessionBrokenError):
        begun(workers, abort)
    assert workers.taken[0].stopped
