"""One evaluation at one server, from its material to this server's output share: begun, and later finished.

What needs no image happens in a thread of its own from the beginning on: the dealer's half comes, a worker takes it and gets
ready. So it can go on while the evaluation before it is under way.
"""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Final

from proto import darkroom_pb2 as pb
from protocols import ring
from protocols.engines import SessionPlan
from protocols.errors import PeerUnavailableError, SessionBrokenError
from protocols.identifiers import PushId, Role
from protocols.unpicklable import Unpicklable
from server.abort import Abort
from server.dealer_client import Batch
from server.outcome import Outcome
from server.peer_channel import PeerChannel
from server.pipe import Kind
from server.relays import WORKER_ENDED, expect, relay_corrections, relay_openings
from server.worker_pool import WorkerPool

Claim = Callable[[Callable[[Callable[[], object]], object]], Batch]  # given what a call that can be broken off is announced to
READY: Final = pb.PeerMessage(ready=pb.PeerReady())


class TileEvaluation(Unpicklable):
    """Holds a worker until `finish` has its result, or `stop`. All in the thread that began it."""

    def __init__(
        self,
        job: pb.WorkerJob,
        plan: SessionPlan,
        push_id: PushId,
        shape: tuple[int, int, int],
        *,
        claim: Claim,
        channel: PeerChannel,
        abort: Abort,
        workers: WorkerPool,
    ) -> None:
        """job: complete but for the material's seed.

        Raises SessionBrokenError: the session was aborted already. PeerUnavailableError: no worker, or no thread, can be had.
        """
        self._job, self._plan, self._push_id, self._shape = job, plan, push_id, shape
        self._claim, self._channel, self._abort, self._workers = claim, channel, abort, workers
        self._stopped = False
        self._cancels: list[Callable[[], object]] = []
        self._memory = plan.dealt_bytes + ring.WORD_BYTES * sum(plan.opened_words(index) for index in range(plan.rounds))
        self._worker = workers.take(self._memory)
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="material")
        with ExitStack() as failing:
            failing.callback(self.stop)
            abort.watch(self._worker)
            try:
                self._filled = self._filler.submit(self._fill)
            except RuntimeError as error:
                raise PeerUnavailableError(f"no thread could be started ({error}): out of memory, or too many?") from error
            failing.pop_all()

    def get_ready(self, waited_since: float) -> None:
        """Wait until both servers have their material. waited_since: when waiting for it began."""
        with self._failing():
            self._batch = self._filled.result()
            self._channel.send(READY)
            self._channel.expect("ready")
            self._offline_seconds = monotonic() - waited_since

    def finish(self) -> Generator[str, None, Outcome]:
        """Evaluate, in step with the other server; yields stages. After `get_ready`."""
        yield "evaluating"
        with self._failing():
            self._worker.pipe.send(Kind.GO)
            stats, share = relay_openings(self._worker.pipe, self._channel, self._plan)
        self.stop()
        costs = (self._offline_seconds, self._batch.dealt_bytes, self._batch.dealer_peak_rss_bytes)
        nursery = stats.nursery_private_bytes or self._worker.nursery_peak_rss_bytes
        return Outcome(share, stats, self._plan.engine, *costs, self._push_id, self._shape, nursery, self._memory)

    @contextmanager
    def _failing(self) -> Generator[None]:
        """What a broken pipe to the worker means."""
        try:
            yield
        except OSError as error:  # broken, or closed under us
            if self._abort.aborted:
                raise SessionBrokenError("the session was cancelled: the caller has gone, or the other server") from error
            raise PeerUnavailableError(WORKER_ENDED) from error

    def stop(self) -> None:
        """Give everything back; a second time does nothing."""
        if self._stopped:
            return
        self._stopped = True
        for cancel in list(self._cancels):
            cancel()
        self._worker.kill()  # wakes the filler, which may be sending the job
        self._filler.shutdown()  # waits for it: a descriptor that is closed under its hands can be another socket's by then
        self._worker.stop()
        self._abort.forget(self._worker)

    def _fill(self) -> Batch:
        """Run in a thread of its own: the dealer's half goes to the worker as it comes."""
        batch = self._claim(self._announced)
        self._job.material_seed = batch.seed
        pipe, role = self._worker.pipe, Role(self._job.role)
        pipe.send(Kind.JOB, self._job.SerializeToString())
        relay_corrections(batch.corrections, pipe, self._plan.correction_sizes if role is Role.B else [])
        expect(pipe, Kind.READY)
        return batch

    def _announced(self, cancel: Callable[[], object]) -> None:
        self._cancels.append(cancel)
        self._abort.also(cancel)
        if self._stopped:
            cancel()
