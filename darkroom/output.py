"""What the command line shows: results on standard output, everything else on standard error.

A result is shown whole or not at all, and nothing secret is: an object's id, sizes and costs are public.
"""

import json
import os
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from client.files import replacing
from client.progress import Step
from protocols.errors import ConfigurationError

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


class CheckedOutput:
    """A command's standard output (`darkroom.__main__`). Writing raises ConfigurationError where it fails, and is given up then.

    As where the disk is full, or nobody reads any more.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._checked():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._checked():
            self._stream.flush()

    @contextmanager
    def _checked(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            # What is left in a buffer would fail again when the interpreter ends, with a traceback and an exit code of its own.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            raise ConfigurationError(f"standard output cannot be written: {error.strerror or error}") from error


def result_line(text: str, json_path: str | None) -> None:
    """Print a result for scripts, unless standard output is taken by JSON. Raises ConfigurationError."""
    if json_path != STDOUT:
        print(text, flush=True)


def result_table(table: Table, json_path: str | None) -> None:
    """Print a table, unless standard output is taken by JSON. Raises ConfigurationError."""
    if json_path != STDOUT:
        out().print(table)


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


def require_place_for_json(path: str | None, *, makes: Path | None = None) -> None:
    """Find out before the work whether `write_json` will have a folder to write to. makes: a folder that the work makes.

    Raises ConfigurationError: there is none, it is closed to us, or `path` is a folder itself.
    """
    if path is None or path == STDOUT:
        return
    file = Path(path)
    if makes is not None and not file.parent.exists() and file.parent.absolute() == makes.absolute():
        return
    if not file.parent.is_dir():
        raise ConfigurationError(f"{path} cannot be written: there is no folder {file.parent}")
    if file.is_dir():
        raise ConfigurationError(f"{path} cannot be written: it is a folder; --json takes a file, or - for standard output")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{path} cannot be written: the folder {file.parent} is closed to this user")


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
