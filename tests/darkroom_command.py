"""`darkroom` as a fixture: the entry point with its arguments, in this process, because torch takes seconds to load.

How the installed command starts, runs until it is stopped and ends by a signal is tested with processes.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from darkroom.__main__ import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Darkroom = Callable[..., Done]


@pytest.fixture
def darkroom(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Darkroom]:
    """Runs a command to its end."""
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("GRPC_VERBOSITY", "DARKROOM_LOG", "DARKROOM_DEBUG", "DARKROOM_CONFIG"):
        monkeypatch.setenv(name, "")  # so that what `main` sets is taken back: later tests start parties
        monkeypatch.delenv(name)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["darkroom", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Done(int(stop.value.code or 0), captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
