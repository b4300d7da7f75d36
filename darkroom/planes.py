"""The planes of one file, through the servers: while one is evaluated, the next is stored and opened. Results in order.

A plane is stored in the caller's thread and opened and deleted in one of its own, so that Ctrl-C, which comes in the main thread,
ends a store at once and the other calls with it. Two planes are under way at most, as servers prepare one session ahead. A server
that has no place for the second is asked again when the first is over, and from then on each plane waits for the one before it.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from client import acquisition, edge
from client.calls import Calls
from client.config import HospitalConfig
from client.origin import ImageStack, SourceImage
from client.progress import Step
from client.records import ObjectRecord
from client.waiting import patiently
from darkroom.output import Teller
from darkroom.store_options import StoreOptions
from darkroom.uninterrupted import uninterrupted
from protocols.errors import DarkroomError, IntegrityError, PeerUnavailableError

AT_ONCE: Final = 2
# Beyond these a plane goes alone: a large one is cut into tiles, which overlap among themselves and leave nothing to gain, and a
# window that is not much longer than an evaluation could close while the plane before is evaluated.
LARGEST_AHEAD: Final = 1 << 20  # pixels
SHORTEST_WINDOW: Final = timedelta(hours=1)


def denoise_planes(
    config: HospitalConfig, stack: ImageStack, model: str, options: StoreOptions, stages: Teller, wait: float
) -> list[edge.Denoised]:
    """All planes, also after one whose result failed its check: stopping there would show a server that it had failed.

    Any other error ends the work at once, and is raised whether or not a result had failed before; what is under way is deleted.
    """
    work = _Work(config, model, options, stages, wait)
    if stack.count == 1:
        record = work.stored(stack.plane(0))
        with deleting(config, record, stages):
            return [patiently(partial(work.opened, record, stages), wait, stages)]
    ahead = stack.height * stack.width <= LARGEST_AHEAD and (options.duration or config.window) >= SHORTEST_WINDOW
    return _in_order(work, stack, stack.count, AT_ONCE if ahead else 1)


@contextlib.contextmanager
def deleting(config: HospitalConfig, record: ObjectRecord, stages: Teller) -> Generator[None]:
    """Delete the object at the end, however the block ends. A deletion that fails is told, and the record stays."""

    def deleted(step: Step) -> None:
        stages.tell(step.who, step.stage)  # not `stages(step)`, which may end the work: a deletion goes on to its end

    try:
        yield
    finally:
        with uninterrupted():
            try:
                acquisition.delete(config, record.object_id, progress=deleted)
            except DarkroomError as error:
                stages.tell("note", str(error))


@dataclass(frozen=True)
class _Work:
    """What is the same for all planes."""

    config: HospitalConfig
    model: str
    options: StoreOptions
    stages: Teller
    wait: float

    def stored(self, image: SourceImage) -> ObjectRecord:
        store = partial(
            acquisition.store,
            self.config,
            image,
            packing=self.options.mode,
            packing_sigma=self.options.packing_sigma,
            sigma=self.options.sigma,
            window=self.options.duration,
            progress=self.stages,
        )
        return patiently(store, self.wait, self.stages)  # each attempt under a fresh nonce and id

    def opened(self, record: ObjectRecord, stages: Teller, calls: Calls | None = None) -> edge.Denoised:
        engine = self.options.engine
        return edge.denoise(self.config, record.object_id, model=self.model, engine=engine, progress=stages, calls=calls)


def _in_order(work: _Work, images: Iterable[SourceImage], count: int, at_once: int) -> list[edge.Denoised]:
    results: list[edge.Denoised] = []
    refused: IntegrityError | None = None
    under_way: deque[_Plane] = deque()
    crowded, before = threading.Event(), None
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="plane")

    def collect(left: int) -> None:
        """Results in order, until so many planes are under way; further ones that are there already."""
        nonlocal refused
        while len(under_way) > left or (under_way and under_way[0].over.is_set()):
            try:
                results.append(under_way[0].result())
            except IntegrityError as error:
                refused = refused or error
            under_way.popleft()

    try:
        for number, image in enumerate(images, start=1):
            collect(at_once - 1)
            work.stages.tell("client", f"plane {number} of {count}")
            record = work.stored(image)
            with uninterrupted():  # no object that is stored and that nobody deletes
                under_way.append(_Plane(work, record, before, crowded, pool))
            before = under_way[-1].over
        collect(0)
    finally:
        with uninterrupted():  # which takes no longer than a deletion
            for plane in under_way:
                plane.stop()
            pool.shutdown()
    if refused is not None:
        raise refused
    return results


class _Plane:
    """One plane that is stored: a thread opens it and deletes it. A `Teller` for its steps."""

    def __init__(
        self,
        work: _Work,
        record: ObjectRecord,
        before: threading.Event | None,
        crowded: threading.Event,
        pool: ThreadPoolExecutor,
    ) -> None:
        """before: whether the plane before is over. crowded: whether a server had no place for two planes of this file."""
        self._work, self._record, self._before, self._crowded = work, record, before, crowded
        self._stopped = threading.Event()
        self._calls = Calls()
        self.over = threading.Event()
        future = pool.submit(self._run)
        self.result: Callable[[], edge.Denoised] = future.result

    def stop(self) -> None:
        """End its calls, and what it does after. It is deleted all the same."""
        self._stopped.set()
        self._calls.cancel()

    def __call__(self, step: Step) -> None:
        """Steps show once the plane before is over: lines come in order, and nobody reads that it waits for its own file."""
        self._require_wanted()
        if self._first:
            self._work.stages(step)

    def tell(self, who: str, what: str) -> None:
        """Shown at once."""
        self._work.stages.tell(who, what)

    @property
    def _first(self) -> bool:
        return self._before is None or self._before.is_set()

    def _require_wanted(self) -> None:
        if self._stopped.is_set():
            raise KeyboardInterrupt

    def _run(self) -> edge.Denoised:
        try:
            with deleting(self._work.config, self._record, self):
                return self._opened()
        finally:
            self.over.set()

    def _opened(self) -> edge.Denoised:
        if not self._first and not self._crowded.is_set():
            try:
                return self._attempt()
            except PeerUnavailableError as error:
                if error.retry_seconds is None:
                    raise
                self._crowded.set()  # nothing was begun
        if self._before is not None:
            self._before.wait()  # which is over soon where the work is ended
        return patiently(self._attempt, self._work.wait, self, pause=self._pause)

    def _attempt(self) -> edge.Denoised:
        self._calls = Calls()  # an attempt cancels what it leaves, so each has its own
        self._require_wanted()
        return self._work.opened(self._record, self, self._calls)

    def _pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self._require_wanted()
