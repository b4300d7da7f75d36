"""What the command line shows: results on standard output, everything else on standard error.

A result is shown whole or not at all, and nothing secret is: an object's id, sizes and costs are public.
"""

import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from client.files import replacing
from client.progress import Step

STDOUT: Final = "-"


def err() -> Console:
    """Standard error, as it is now: a captured one too."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def out() -> Console:
    """Standard output for tables. Wide where it is no terminal, so that nothing is cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def err_table() -> Console:
    """Standard error for tables. Wide where it is no terminal, so that nothing is cut."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 200)


def result_line(text: str, json_path: str | None) -> None:
    """Print a result for scripts, unless standard output is taken by JSON."""
    if json_path != STDOUT:
        print(text)


def write_json(result: Mapping[str, Any], path: str | None) -> None:
    """Write the result as JSON where `--json` asks for it. Raises ConfigurationError: the file cannot be written."""
    if path is None:
        return
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if path == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with replacing(Path(path)) as file:
        file.write(text.encode())


class Teller(Protocol):
    """Is told what one image's work is doing. Safe with threads."""

    def __call__(self, step: Step) -> None:
        """One step. May raise KeyboardInterrupt to end the work."""

    def tell(self, who: str, what: str) -> None:
        """One line. Raises nothing."""


class Stages:
    """Shows each stage as a line, who first, and transfers as bars where there is a terminal.

    A `client.progress.Progress`; safe with threads.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._told: set[tuple[str, str]] = set()
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console, transient=True, expand=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars.live.is_started:  # else it would print an empty line
            self._bars.stop()

    def __call__(self, step: Step) -> None:
        """Show one step."""
        key = (step.who, step.stage)
        with self._lock:
            if step.total_bytes:
                if self._console.is_terminal:
                    self._transfer(key, step)
            elif key not in self._told:
                self._told.add(key)
                self._line(step.who, step.stage)

    def _transfer(self, key: tuple[str, str], step: Step) -> None:
        """Bars are there only while something moves: the display runs from the first to the last."""
        if key not in self._tasks:
            if step.done_bytes >= step.total_bytes:
                return
            self._bars.start()
            self._tasks[key] = self._bars.add_task(f"{escape(step.who)}: {escape(step.stage)}", total=step.total_bytes)
        self._bars.update(self._tasks[key], completed=step.done_bytes)
        if step.done_bytes >= step.total_bytes:
            self._bars.remove_task(self._tasks.pop(key))
            if not self._tasks:
                self._bars.stop()

    def tell(self, who: str, what: str) -> None:
        """One line."""
        with self._lock:
            self._line(who, what)

    def _line(self, who: str, what: str) -> None:
        self._console.print(f"[bold]{escape(who):>12}[/bold]  {escape(what)}")
