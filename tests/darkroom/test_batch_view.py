"""Without a terminal: one line for each file, and what keeps the batch waiting once."""

import io
from pathlib import Path

from rich.console import Console

from client.progress import Step
from client.waiting import patiently
from darkroom.batch import Outcome, State
from darkroom.batch_files import Found
from darkroom.batch_view import BatchView
from protocols.errors import BusyError

IMAGE = Found("a.dcm", Path("a.dcm"), output="a.dcm")


def test_lines_without_a_terminal() -> None:
    text = io.StringIO()
    refusals = [BusyError("server A is busy", retry_seconds=4)]

    def attempt() -> None:
        if refusals:
            raise refusals.pop()

    with BatchView(Console(file=text, width=200), 2) as view:
        view.tell(IMAGE, Step("edge", "waiting for server A"))  # an ordinary stage
        view.tell(IMAGE, Step("client", "the servers are busy; again in 4 s"))
        view.tell(IMAGE, Step("client", "the servers are busy; again in 4 s"))
        patiently(attempt, 60, lambda step: view.tell(IMAGE, step), pause=lambda _: None, spread=lambda: 0.0)
        view.note(IMAGE, "server B may still hold a share")
        view.finished(Outcome(IMAGE, State.DONE))
        view.finished(Outcome(Found("b\x1b", Path("b")), State.FAILED, "too small"))
    assert text.getvalue().splitlines() == [
        "a.dcm: the servers are busy; again in 4 s",
        "a.dcm: server A is busy; waiting 4 s, nothing was begun",
        "a.dcm: note: server B may still hold a share",
        "[1/2] a.dcm: done",
        "[2/2] b\\x1b: failed: too small",
    ]
