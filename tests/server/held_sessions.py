"""Sessions at a real server A whose evaluation is a stand-in that the test holds back. No sockets."""

import threading

import pytest

from proto import darkroom_pb2 as pb
from protocols.identifiers import PushId, Role
from server.config import ServerConfig
from server.outcome import Outcome
from server.peer_channel import PeerChannel
from server.service import ServerService
from tests.server import test_service
from tests.server.fake_workers import FakeWorkers
from tests.server.test_service import HOSPITAL, ByName, Context, Identity, Refused, request, store

peer = test_service.peer
SECONDS = 60
WAITING = 2


class Call:
    """One Denoise of the edge, in a thread as gRPC has it."""

    def __init__(self, service, number, **changes):
        self.session, self.context = f"{number:032x}", Context("edge")
        self.stages, self.header, self.error = [], None, None
        self._changed = threading.Condition()
        self._replies = service.Denoise(request(session_id=self.session, **changes), self.context)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            for reply in self._replies:
                with self._changed:
                    if reply.WhichOneof("content") == "stage":
                        self.stages.append(reply.stage)
                    elif reply.WhichOneof("content") == "header":
                        self.header = reply.header
                    self._changed.notify_all()
        except Refused as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def reaches(self, stage):
        """A stage that begins so: the estimate is the clock's."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._reached(stage) or self.error, SECONDS), self.stages
        assert self._reached(stage), self.error

    def begins_within(self, seconds):
        """Whether its turn comes in this time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._reached("evaluating"), seconds)

    def _reached(self, stage):
        return any(found.startswith(stage) for found in self.stages)

    def cancel(self):
        for callback in self.context.callbacks:
            callback()

    def ends(self):
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        return self


class Evaluations:
    """Stands for `Evaluator.lead`: each is prepared at once, and evaluated until the test lets it end."""

    def __init__(self):
        self.order, self.shares, self.release = [], [], threading.Semaphore(0)
        self.workers = None  # where a test looks at them

    def __call__(self, channel, boot, task, stop, place):
        self.shares.append(task.image_share())
        if self.workers is not None:
            stop.watch(self.workers.take())
        yield from place.evaluate()
        self.order.append(task.session_id)
        yield "evaluating"
        assert self.release.acquire(timeout=SECONDS)
        stats = pb.WorkerStats(online_seconds=1.5, rounds=3, sent_bytes=100, peak_rss_bytes=1 << 50)
        return Outcome(
            bytes(8), stats, "masked", 0.5, 40, 0, PushId("5" * 32), (1, 8, 9), nursery_peak_rss_bytes=1 << 51, memory_bytes=0
        )


@pytest.fixture
def service(tmp_path, peer, monkeypatch):
    identity = Identity(peer.certificate, b"no key: no handshake is made here")
    config = ServerConfig(Role.A, identity, tmp_path, HOSPITAL.public_key(), peer, None, waiting=WAITING)
    service = ServerService(config, ByName(), FakeWorkers())
    monkeypatch.setattr(service._meeting, "take", lambda *_: PeerChannel(Role.B, boot="b" * 32))
    monkeypatch.setattr(service._models, "description", lambda name: None)
    store(service, Role.A)
    return service


@pytest.fixture
def evaluations(service, monkeypatch):
    fake = Evaluations()
    monkeypatch.setattr(service._evaluator, "lead", fake)
    yield fake
    fake.release.release(100)
    assert service.wait_idle(SECONDS)  # no thread of a test logs into the next


@pytest.fixture
def full(service, evaluations):
    """One session is evaluated, one is prepared, the others wait in line."""
    calls = [Call(service, 1)]
    calls[0].reaches("evaluating")
    for number in range(2, WAITING + 2):
        calls.append(Call(service, number))
        calls[-1].reaches(f"waiting: {number - 1} ahead")
    return calls


def sample(service, name, **labels):
    return service.metrics.registry.get_sample_value(name, labels)
