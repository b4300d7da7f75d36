"""Calls that a party makes to another, recorded on the way: a stub in place of gRPC's, with the same behaviour."""

from collections.abc import Iterator
from typing import Any

from security.recording import RECEIVED, SENT, Recorder


def tapped(recorder: Recorder, link: str, direction: str, messages: Iterator[Any]) -> Iterator[Any]:
    """Pass messages on, each recorded before it goes on."""
    for message in messages:
        recorder.message(link, direction, message)
        yield message


class RecordedCall:
    """A streaming call under way."""

    def __init__(self, recorder: Recorder, link: str, call: Any) -> None:
        self._recorder, self._link, self._call = recorder, link, call

    def __iter__(self) -> "RecordedCall":
        return self

    def __next__(self) -> Any:
        message = next(self._call)
        self._recorder.message(self._link, RECEIVED, message)
        return message

    def cancel(self) -> object:
        """As gRPC's."""
        return self._call.cancel()


class RecordedStub:
    """A generated stub whose every call is recorded."""

    def __init__(self, recorder: Recorder, peer: str, stub: Any) -> None:
        self._recorder, self._peer, self._stub = recorder, peer, stub

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        link = f"{self._peer} {name}"

        def call(request: Any, **options: Any) -> Any:  # timeout, and what else gRPC takes
            if isinstance(request, Iterator):
                request = tapped(self._recorder, link, SENT, request)
            else:
                self._recorder.message(link, SENT, request)
            answer = method(request, **options)
            if hasattr(answer, "cancel"):
                return RecordedCall(self._recorder, link, answer)
            self._recorder.message(link, RECEIVED, answer)
            return answer

        return call
