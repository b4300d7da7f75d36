"""A folder of images, one after the other or a few at a time. One failure does not stop the rest.

What concerns every image does: the configuration, the certificates, a full disk, servers out of reach. The batch then ends
early, and the same command goes on where it ended (`darkroom.batch_manifest`). How one image is denoised is handed in.
"""

import enum
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from client.progress import Step
from darkroom.back_off import BackOff, retry_seconds
from darkroom.batch_files import Found
from darkroom.batch_manifest import Manifest, Source, digest
from darkroom.output import Teller
from protocols.errors import (
    AccessDenied,
    BadInputError,
    BusyError,
    ConfigurationError,
    DarkroomError,
    IntegrityError,
    MaterialReusedError,
    NotFoundError,
    PeerUnavailableError,
    UnknownFormatError,
)

BUSY_SECONDS: Final = 3600.0  # of waiting for one image's turn: then something else than a queue is wrong
REACH_SECONDS: Final = 60.0  # a server that restarts is back by then
ATTEMPTS: Final = 3  # for an image on which the call breaks off though both servers answer

DenoiseFile = Callable[[Path, Path, Teller], object]
Wait = Callable[[float], bool]


class State(enum.Enum):
    """What became of a file."""

    DONE = "done"
    ALREADY = "already done"
    NO_IMAGE = "no image"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one file, and why."""

    image: Found
    state: State
    sentence: str = ""
    error: DarkroomError | None = None


@dataclass
class Summary:
    """The whole batch. `outcomes` are in the order of the folder; files that were not reached have none."""

    total: int
    outcomes: list[Outcome] = field(default_factory=list)
    stopped: DarkroomError | None = None  # what concerned every image
    interrupted: bool = False

    def of(self, state: State) -> list[Outcome]:
        """The files of one state."""
        return [outcome for outcome in self.outcomes if outcome.state is state]

    @property
    def not_begun(self) -> int:
        return self.total - len(self.outcomes)

    @property
    def error(self) -> DarkroomError | None:
        """What decides the exit code: what stopped the batch, else the first failure in the order of the folder."""
        failed = self.of(State.FAILED)
        return self.stopped or (failed[0].error if failed else None)


class View:
    """Is told of each image that is begun and of what became of it. Shows nothing; safe with threads."""

    def tell(self, image: Found, step: Step) -> None:
        """An image's work has come to this step."""

    def note(self, image: Found, text: str) -> None:
        """Something that the user should know, and that is no failure."""

    def finished(self, outcome: Outcome) -> None:
        """This became of it."""


@dataclass(frozen=True)
class Plan:
    """What is to be done, and with what. `check` raises while not both servers answer and hold the model."""

    folder: Path
    output: Path
    options: Mapping[str, Any]  # everything that decides on a result, besides its source
    denoise: DenoiseFile
    check: Callable[[], None]
    redo: bool = False  # also what is done already
    jobs: int = 1


class Batch:
    """One run over a folder."""

    def __init__(
        self,
        plan: Plan,
        manifest: Manifest,
        view: View,
        *,
        wait: Wait | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """wait: sleeps so many seconds, less when the batch is interrupted; true if it is. A test's does not sleep."""
        self._clock = clock
        self._plan, self._manifest, self._view = plan, manifest, view
        self._interrupted = threading.Event()
        self._wait: Wait = self._interrupted.wait if wait is None else wait
        self._lock = threading.Lock()
        self._found: dict[int, Outcome] = {}
        self._stopped: DarkroomError | None = None
        self._checked = False

    def run(self, images: Sequence[Found]) -> Summary:
        """Denoise what is not done. Raises nothing but bugs: what went wrong, and an interruption, are in the summary."""
        work = iter(enumerate(images))
        if self._plan.jobs == 1:
            self._run_here(work)
        else:
            self._run_in_threads(work)
        outcomes = [self._found[index] for index in sorted(self._found)]
        return Summary(len(images), outcomes, self._stopped, self._interrupted.is_set())

    def _run_here(self, work: "enumerate[Found]") -> None:
        try:
            self._take(work)
        except KeyboardInterrupt:  # the image's object is deleted by now: `darkroom.planes.deleting`
            self._interrupted.set()

    def _run_in_threads(self, work: "enumerate[Found]") -> None:
        with ThreadPoolExecutor(self._plan.jobs, thread_name_prefix="batch") as pool:
            taken = [pool.submit(self._take, work) for _ in range(self._plan.jobs)]
            while not all(future.done() for future in taken):
                try:
                    for future in taken:
                        future.exception()
                except KeyboardInterrupt:  # a second one too: the images under way end at their next step
                    self._interrupted.set()
        for future in taken:
            error = future.exception()
            if error is not None and not isinstance(error, KeyboardInterrupt):
                raise error

    def _take(self, work: "enumerate[Found]") -> None:
        """Denoise image after image, until there is none, or something concerns them all."""
        while not self._interrupted.is_set():
            with self._lock:
                index, image = next(work, (-1, None))
                if image is None or self._stopped is not None:
                    return
            try:
                outcome = self._outcome(image)
            except DarkroomError as error:
                with self._lock:
                    self._stopped = self._stopped or error
                return
            with self._lock:
                self._found[index] = outcome
            self._view.finished(outcome)

    def _outcome(self, image: Found) -> Outcome:
        """What becomes of one file. Raises DarkroomError: it concerns every image."""
        if image.no_image:
            return Outcome(image, State.NO_IMAGE, image.no_image)
        if image.refused:
            return _failed(image, BadInputError(f"{image.path}: {image.refused}"))
        try:
            source = Source(str(self._plan.folder.resolve()), image.name, digest(image.path), self._plan.options)
            if not self._plan.redo and self._manifest.is_done(source, image.output):
                return Outcome(image, State.ALREADY)
            if not self._plan.redo and self._manifest.is_damaged(source, image.output):
                return _failed(image, IntegrityError("its result was damaged in an earlier run; --redo asks the servers again"))
            self._manifest.require_ours(source, image.output)
        except BadInputError as error:
            return _failed(image, error)
        return self._denoise(image, source)

    def _denoise(self, image: Found, source: Source) -> Outcome:
        target = self._plan.output / image.output
        with self._lock:
            if not self._checked:  # before the first image that needs them: a batch that is done needs no server
                self._plan.check()
                self._checked = True
        self._manifest.begin(source, image.output)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"the folder {target.parent} cannot be made: {error.strerror or error}") from error
        try:
            self._patiently(image, target)
        except UnknownFormatError as error:
            return Outcome(image, State.NO_IMAGE, str(error))
        except IntegrityError as error:
            # Noted, so that no script repeats it: a server that deviates must not see how the edge takes its result.
            self._manifest.refuse(source, image.output)
            return _failed(image, error)
        except NotFoundError as error:
            self._plan.check()  # the model is gone: that concerns every image
            return _failed(image, error)
        except (ConfigurationError, AccessDenied, MaterialReusedError):
            raise
        except _GivenUpError as error:
            return _failed(image, error.error)
        except PeerUnavailableError:
            raise
        except DarkroomError as error:
            return _failed(image, error)
        self._manifest.finish(source, image.output)
        return Outcome(image, State.DONE)

    def _patiently(self, image: Found, target: Path) -> None:
        """Denoise, and wait where servers are busy or out of reach. Raises DarkroomError."""
        busy, broken, began = BackOff(), itertools.count(1), self._clock()
        while True:
            try:
                self._plan.denoise(image.path, target, _ImageTeller(self._view, image, self._interrupted))
                return
            except PeerUnavailableError as error:
                if not isinstance(error, BusyError) and retry_seconds(error) is None:
                    self._reach(image)
                    if next(broken) == ATTEMPTS:
                        raise _GivenUpError(error) from error
                    self._view.tell(image, Step("client", "the servers answer again"))
                    continue
                # Between the planes of a volume the waiting is done by `plan.denoise`, so that those before are not done again.
                if max(busy.waited, self._clock() - began) > BUSY_SECONDS:
                    raise PeerUnavailableError(f"{error}; still so after {BUSY_SECONDS:.0f} s") from error
                seconds = busy.next(error)
                self._view.tell(image, Step("client", f"the servers are busy; again in {seconds:.0f} s"))
                self._pause(seconds)

    def _reach(self, image: Found) -> None:
        """Wait until both servers answer. Raises PeerUnavailableError: they do not in time."""
        unreachable = BackOff()
        while True:
            try:
                self._plan.check()
                return
            except PeerUnavailableError as error:
                if unreachable.waited > REACH_SECONDS:
                    raise
                seconds = unreachable.next(error)
                self._view.tell(image, Step("client", f"{error}; again in {seconds:.0f} s"))
                self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        if self._wait(seconds):
            raise KeyboardInterrupt


class _GivenUpError(DarkroomError):
    """One image's calls break off, again and again, though the servers answer."""

    def __init__(self, error: DarkroomError) -> None:
        super().__init__(str(error))
        self.error = error


class _ImageTeller:
    """Passes on the steps of one image, and ends its work at the next step once the batch is interrupted."""

    def __init__(self, view: View, image: Found, interrupted: threading.Event) -> None:
        self._view, self._image, self._interrupted = view, image, interrupted

    def __call__(self, step: Step) -> None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        self._view.tell(self._image, step)

    def tell(self, who: str, what: str) -> None:
        if who == "note":
            self._view.note(self._image, what)
        else:
            self._view.tell(self._image, Step(who, what))


def _failed(image: Found, error: DarkroomError) -> Outcome:
    return Outcome(image, State.FAILED, str(error), error)
