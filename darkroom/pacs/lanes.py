"""Two lanes of work on the spool, each in its own thread: denoise what came in, send what is ready. Each takes the oldest first.

A failure that is the object's puts it aside. A failure that is not (servers or destination out of reach, a full disk, an
expired certificate) keeps it where it is, and the lane waits, longer each time: nothing overtakes, nothing is lost.
"""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final

import structlog

from client.dicom_class import is_our_result
from client.progress import Step
from darkroom.back_off import BackOff, retry_seconds
from darkroom.output import Teller
from darkroom.pacs.metrics import PacsMetrics
from darkroom.pacs.spool import Entry, Spool, Stage
from protocols.errors import (
    BadInputError,
    BusyError,
    ConfigurationError,
    DarkroomError,
    IntegrityError,
    MaterialReusedError,
    NotFoundError,
    PeerUnavailableError,
    ProtocolError,
)

ATTEMPTS: Final = 3  # where an object's calls break off though both servers answer
LOOK_SECONDS: Final = 5.0  # how often an idle lane looks for objects that somebody has moved back

_LOOP: Final = "this is a result of Darkroom that came back: take what Darkroom sends out of the rule that routes images to it"

DenoiseFile = Callable[[Path, Path, Teller], object]
log = structlog.get_logger()


class Bell:
    """Wakes a lane: there is work, or it is time to stop."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._rung = threading.Event()

    def ring(self) -> None:
        """Wake the lane."""
        self._rung.set()

    def wait_for_work(self) -> None:
        """Until it rings, or it is time to look."""
        self._rung.wait(LOOK_SECONDS)
        self._rung.clear()

    def pause(self, seconds: float) -> None:
        """So long, however much work arrives; less when it is time to stop."""
        self._stopping.wait(seconds)

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()


class Lane:
    """One lane: takes the oldest object of a stage and does one step with it, again and again."""

    def __init__(self, spool: Spool, stage: Stage, step: Callable[[Entry], None], bell: Bell) -> None:
        self._spool, self._stage, self._step, self.bell = spool, stage, step, bell
        self._back_off = BackOff()

    def run(self) -> None:
        """Until it is time to stop; the object at hand is finished first."""
        while not self.bell.stopping:
            if not self.turn():
                self.bell.wait_for_work()

    def turn(self) -> bool:
        """One object, or one try; whether there was any."""
        try:
            entry = self._spool.oldest(self._stage)
            if entry is None:
                return False
            self._step(entry)
        except DarkroomError as error:
            seconds = self._back_off.next(error)
            # These errors are of peers, configuration and disk, so their sentences tell nothing of a patient.
            log.warning(
                "waits", stage=self._stage.value, reason=str(error), seconds=seconds, waiting=self._spool.count(self._stage)
            )
            self.bell.pause(seconds)
        else:
            self._back_off = BackOff()
        return True


class Denoising:
    """The step from incoming to outgoing."""

    def __init__(
        self,
        spool: Spool,
        denoise: DenoiseFile,
        check: Callable[[], None],
        ready: Callable[[], None],
        metrics: PacsMetrics,
        *,
        forward_unsupported: bool,
    ) -> None:
        """check: raises while not both servers answer and hold the model. ready: rings the sending lane."""
        self._spool, self._denoise, self._check, self._ready, self._metrics = spool, denoise, check, ready, metrics
        self._forward_unsupported = forward_unsupported
        self._attempts: Counter[str] = Counter()

    def __call__(self, entry: Entry) -> None:
        """Denoise one object. Raises DarkroomError: it concerns every object, so this one waits."""
        started = monotonic()
        try:
            if is_our_result(entry.path):
                # Not even sent on: it would come back for ever.
                _put_aside(self._spool, self._metrics, entry, BadInputError(_LOOP))
                return
            self._denoise(entry.path, self._spool.work_path(entry), _Silent(entry.entry_id))
        except (BusyError, MaterialReusedError):
            raise  # the latter: the machine's randomness repeats, which concerns every object
        except NotFoundError as error:
            self._check()  # raises where the model is missing, which concerns every object
            self._again(entry, error)
        except BadInputError as error:
            if self._forward_unsupported:
                self._spool.unchanged(entry)
                self._metrics.unchanged.inc()
                log.warning("sent on unchanged, as it cannot be denoised", object=entry.entry_id, kind=type(error).__name__)
                self._ready()
            else:
                _put_aside(self._spool, self._metrics, entry, error)
        except IntegrityError as error:
            # Never again by itself: a server that deviates must not see how its result was taken (threat model).
            _put_aside(self._spool, self._metrics, entry, error)
        except PeerUnavailableError as error:
            if retry_seconds(error) is not None:
                raise
            self._check()
            self._again(entry, error)
        except ProtocolError as error:
            self._again(entry, error)
        except OSError as error:
            raise ConfigurationError(f"{entry.path} cannot be read: {error.strerror or error}") from error
        else:
            self._spool.denoised(entry)
            self._metrics.result(monotonic() - started)
            self._attempts.pop(entry.entry_id, None)
            log.info("denoised", object=entry.entry_id)
            self._ready()

    def _again(self, entry: Entry, error: DarkroomError) -> None:
        """Both servers answer, so it may be this object: it gets a few tries. Raises the error while it has some left."""
        self._attempts[entry.entry_id] += 1
        if self._attempts[entry.entry_id] < ATTEMPTS:
            raise error
        del self._attempts[entry.entry_id]
        _put_aside(self._spool, self._metrics, entry, error)


class Sending:
    """The step from outgoing to the destination."""

    def __init__(self, spool: Spool, send: Callable[[Path], None], metrics: PacsMetrics) -> None:
        self._spool, self._send, self._metrics = spool, send, metrics

    def __call__(self, entry: Entry) -> None:
        """Send one object. Raises PeerUnavailableError: it waits."""
        try:
            self._send(entry.path)
        except (BadInputError, ProtocolError) as error:
            self._metrics.sending_failed.inc()
            _put_aside(self._spool, self._metrics, entry, error)
        except DarkroomError:
            self._metrics.sending_failed.inc()
            raise
        else:
            self._metrics.sent.inc()
            self._spool.delivered(entry)
            log.info("delivered", object=entry.entry_id)


class _Silent:
    """Logs only what an operator must act on."""

    def __init__(self, entry_id: str) -> None:
        self._entry_id = entry_id

    def __call__(self, step: Step) -> None:
        pass

    def tell(self, who: str, what: str) -> None:
        if who == "note":  # a share that could not be deleted
            log.warning("note", object=self._entry_id, text=what)


def _put_aside(spool: Spool, metrics: PacsMetrics, entry: Entry, error: DarkroomError) -> None:
    """The reason goes to a file beside it; the log, which more people read, has its kind alone."""
    spool.fail(entry, str(error))
    metrics.failed(entry.stage)
    log.error("put aside: failed/ID.txt says why", object=entry.entry_id, was=entry.stage.value, kind=type(error).__name__)
