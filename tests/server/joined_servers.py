"""Two servers and a dealer in one process: the ledger, the channels and the evaluators are real, workers are fake.

Certificates are absent. For tests of whole sessions.
"""

import threading
from dataclasses import dataclass, field

import torch

from dealer.ledger import DealingLedger
from proto import darkroom_pb2 as pb
from protocols import ring
from protocols.engines import CRYPTEN
from protocols.identifiers import Role
from protocols.layers import Conv, Gate
from protocols.network import IMAGE_WIRE, Network
from server.abort import Abort
from server.evaluation import EvaluationRequest, Evaluator
from server.models import ModelRegistry
from server.share_store import ShareStore
from server.turns import TurnQueue
from tests.server.fake_workers import FakeWorkers
from tests.server.ledger_dealer import LedgerDealer
from tests.server.test_models import upload
from tests.server.test_peer_channel import joined

NETWORK = Network((Conv("c", IMAGE_WIRE, 2, 3, padding=1), Gate("g", "c")))
SECONDS = 20


@dataclass
class Running:
    """One session of both servers."""

    threads: list
    results: dict
    stages: dict

    def ends(self):
        """Outcomes or errors of A and B, and their stages."""
        for thread in self.threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in self.threads), "a server hangs"
        return self.results[Role.A], self.results[Role.B], self.stages


@dataclass
class Site:
    """Two servers and a dealer in one process."""

    folder: object
    engine: str = CRYPTEN
    ledger: list = field(default_factory=lambda: [DealingLedger()])  # replaced when the dealer restarts

    def __post_init__(self):
        self.registries, self.dealers, self.workers, self.evaluators, self.turns = {}, {}, {}, {}, {}
        for role in Role:
            self.start(role)
        upload(self.registries, NETWORK)

    def start(self, role):
        """Start or restart a server: what was in memory is gone."""
        self.registries[role] = ModelRegistry(ShareStore(self.folder / role.value), role)
        self.dealers[role] = LedgerDealer(role, self.ledger)
        self.workers[role] = FakeWorkers()
        self.turns[role] = TurnQueue(f"server {role.value}", 8)
        self.evaluators[role] = Evaluator(role, self.registries[role], self.dealers[role], self.workers[role])

    def restart_dealer(self):
        self.ledger[0] = DealingLedger()

    def request(self, role, number, **changes):
        share = bytes(32) if role is Role.A else ring.to_bytes(torch.zeros(1, 8, 9, dtype=torch.int64))
        values = {
            "session_id": f"{number:032x}",
            "object_id": "0" * 32,
            "model": "base",
            "stored": pb.StoreHeader(size=pb.Size(height=8, width=9), packing=pb.PACKING_BLIND),
            "image_share": lambda: share,
            "noise_key": b"",
            "sigma_share": 0,
            "engine": self.engine,
            "require_window": lambda: None,
        }
        return EvaluationRequest(**(values | changes))

    def session(self, number=1, **options):
        """Both servers evaluate; their outcomes or errors, and stages. options: as `begin`."""
        ended = self.begin(number, **options).ends()
        self.require_idle()
        return ended

    def require_idle(self):
        """No session is left, and no worker."""
        assert not any(turns.busy or turns.waiting for turns in self.turns.values())
        assert all(worker.stopped for workers in self.workers.values() for worker in workers.taken)

    def begin(self, number=1, *, during=lambda role, stage, abort: None, **changes):
        """Both servers evaluate, in threads. changes: of B's request."""
        channels = dict(zip(Role, joined(), strict=True))
        results, stages = {}, {role: [] for role in Role}

        def run(role):
            channel, abort = channels[role], Abort()
            abort.watch_channel(channel)
            evaluator = self.evaluators[role]
            request = self.request(role, number, **(changes if role is Role.B else {}))
            try:
                with self.turns[role].enter(abort.interrupt) as place:
                    abort.last(place.leave)
                    if role is Role.A:
                        steps = self._leading(channel, request, abort, place)
                    else:
                        steps = evaluator.follow(channel, request, abort, place)
                    results[role] = self._drain(steps, role, abort, stages, during)
            except Exception as error:
                results[role] = error
            finally:
                channel.close()

        threads = [threading.Thread(target=run, args=(role,), daemon=True) for role in Role]
        for thread in threads:
            thread.start()
        return Running(threads, results, stages)

    def _leading(self, channel, request, abort, place):
        yield from place.prepare()
        boot_b = str(self.evaluators[Role.B].boot_id)
        return (yield from self.evaluators[Role.A].lead(channel, boot_b, request, abort, place))

    def _drain(self, steps, role, abort, stages, during):
        while True:
            try:
                stage = next(steps)
            except StopIteration as end:
                return end.value
            stages[role].append(stage)
            during(role, stage, abort)

    @property
    def materials(self):
        """Material ids of all jobs that reached a worker, by server."""
        return {role: [name for _, name in workers.log] for role, workers in self.workers.items()}
