"""One call at a party: its errors become a status, its end a line in the log and a count. Run by servers and dealer."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import grpc
import structlog

from proto.metrics import CallOutcome, PartyMetrics, outcome_of
from proto.status import abort
from protocols.errors import BusyError, DarkroomError
from protocols.identifiers import Identifier

log = structlog.get_logger("calls")


class CallRecord:
    """What the log says of a call: public fields that are learnt as it goes."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.fields: dict[str, Any] = {}

    def note(self, **fields: Any) -> None:
        """Fields of this call's lines from here on. Never a secret."""
        self.fields.update(fields)

    def note_id(self, name: str, text: str) -> None:
        """An identifier that the caller sent: logged only if it is one, since a caller can send anything."""
        if Identifier.PATTERN.fullmatch(text):
            self.fields[name] = text


def when_cancelled(context: grpc.ServicerContext, action: Callable[[], object]) -> None:
    """Called when the call has ended from outside; at once where that was before we came to ask.

    gRPC calls it in the one thread that takes all of its events: it must not wait.
    """
    if not context.add_callback(action):
        action()


@contextmanager
def answering(
    context: grpc.ServicerContext, call: str, metrics: PartyMetrics, *, cancelled: Callable[[], bool] = lambda: False
) -> Generator[CallRecord]:
    """Turn errors of the block into a gRPC status; log and count how it ended.

    cancelled: whether the caller has gone; then errors are its own doing.
    """
    record = CallRecord(call)
    started = monotonic()
    outcome = CallOutcome.BUG
    try:
        with metrics.under_way.track_inprogress():
            yield record
        outcome = CallOutcome.OK
    except GeneratorExit:
        outcome = CallOutcome.CANCELLED
        raise
    except DarkroomError as error:
        outcome = CallOutcome.CANCELLED if cancelled() else outcome_of(error)
        tell = log.info if isinstance(error, BusyError) or outcome is CallOutcome.CANCELLED else log.warning
        tell("refused", call=call, error=type(error).__name__, reason=str(error), **record.fields)
        abort(context, error)
    finally:
        metrics.ended(call, outcome)
        seconds = round(monotonic() - started, 3)
        log.debug("call ended", call=call, outcome=outcome.value, seconds=seconds, **record.fields)
