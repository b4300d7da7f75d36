"""A tap at what a call carries beside its messages: the caller's metadata, and the metadata and error text that go back."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

import grpc

from security.recording import RECEIVED, SENT, Recorder

DETAILS: Final = "details"  # the name under which the text of an error is recorded


class RecordedContext:
    """The context of one call, as the shipped service sees it; whatever is not named here is the context's own."""

    def __init__(self, context: grpc.ServicerContext, recorder: Recorder, link: str) -> None:
        """Writes down what the caller sent. link: as in `Entry`."""
        self._context, self._recorder, self._link = context, recorder, link
        recorder.metadata(link, RECEIVED, context.invocation_metadata())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def send_initial_metadata(self, pairs: Iterable[tuple[str, str | bytes]]) -> None:
        """Recorded."""
        self._context.send_initial_metadata(self._sent(pairs))

    def set_trailing_metadata(self, pairs: Iterable[tuple[str, str | bytes]]) -> None:
        """Recorded."""
        self._context.set_trailing_metadata(self._sent(pairs))

    def set_details(self, details: str) -> None:
        """Recorded."""
        self._sent([(DETAILS, details)])
        self._context.set_details(details)

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Recorded."""
        self._sent([(DETAILS, details)])
        self._context.abort(code, details)
        raise AssertionError("abort always raises")

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Recorded."""
        self._sent([(DETAILS, status.details), *(status.trailing_metadata or ())])
        self._context.abort_with_status(status)
        raise AssertionError("abort_with_status always raises")

    def _sent(self, pairs: Iterable[tuple[str, str | bytes]]) -> Sequence[tuple[str, str | bytes]]:
        pairs = tuple(pairs)
        self._recorder.metadata(self._link, SENT, pairs)
        return pairs
