"""A peer's processes: each takes JSON lines and answers in JSON lines, in time or not at all."""

import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from time import monotonic
from typing import Any, Final

Row = dict[str, float]  # the figures of one evaluation

START_SECONDS: Final = 120.0  # imports, a link, shares of the weights; compilation is no part of it
TAIL_LINES: Final = 4


class EngineError(Exception):
    """An engine gave no result; the message says why."""


class TooSlowError(EngineError):
    """It was given up at the limit."""


class Party:
    """One process, in its own session: it does not see the terminal's Ctrl-C, and is killed with what it started."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._name = name
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        self._answers: Queue[str] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._answers.put(line)
        self._answers.put("")

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send one line. Raises EngineError."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self, deadline: float) -> Any:
        """The next line. deadline: of the monotonic clock. Raises TooSlowError, EngineError."""
        try:
            line = self._answers.get(timeout=max(0.0, deadline - monotonic()))
        except Empty:
            raise TooSlowError(f"{self._name} gave no answer in time") from None
        if not line:
            raise self._ended()
        return json.loads(line)

    def close(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def _ended(self) -> EngineError:
        lines = self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return EngineError(f"{self._name} ended; the end of its log: {' / '.join(lines) or 'empty'}")


def ask_both(parties: Sequence[Party], request: Mapping[str, Any], limit: float) -> list[Any]:
    """One evaluation at both. Raises TooSlowError: past `limit` seconds. EngineError."""
    deadline = monotonic() + limit
    for party in parties:
        party.ask(request)
    return [party.answer(deadline) for party in parties]
