"""What a batch shows: a bar and a line for each file on standard error, a summary on standard output."""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client.progress import Step
from darkroom import __version__
from darkroom.batch import Outcome, Plan, State, Summary, View
from darkroom.batch_files import Found, shown
from proto.exit_codes import exit_code_of

NAME_WIDTH: Final = 40  # of the file in the bar's line; its own line has it in full
_WAITS: Final = ("again in", "nothing was begun")  # what `darkroom.batch` and `client.waiting` say while they wait


class BatchView(View):
    """Lines, and a bar where there is a terminal. Safe with threads."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total
        self._lock = threading.Lock()
        self._count = 0
        self._told: set[tuple[str, str]] = set()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def tell(self, image: Found, step: Step) -> None:
        """Show the step beside the bar; without a terminal only what keeps the batch waiting, once for each file."""
        name = shown(image.name)
        if self._console.is_terminal:
            self._bar.update(self._task, description=escape(f"{name[-NAME_WIDTH:]}: {step.who}: {step.stage}"))
        elif any(words in step.stage for words in _WAITS):
            with self._lock:
                first = (image.name, step.stage) not in self._told
                self._told.add((image.name, step.stage))
            if first:
                self._line(f"{name}: {step.stage}")

    def note(self, image: Found, text: str) -> None:
        """Show a line."""
        self._line(f"{shown(image.name)}: note: {shown(text)}")

    def finished(self, outcome: Outcome) -> None:
        """Show the file's line."""
        with self._lock:
            self._count += 1
            count = self._count
        self._bar.advance(self._task)
        reason = f": {shown(outcome.sentence)}" if outcome.sentence else ""
        self._line(f"[{count}/{self._total}] {shown(outcome.image.name)}: {outcome.state.value}{reason}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)


def summary_lines(summary: Summary) -> list[str]:
    """The summary for people: counts, and each failure with its reason."""
    counts = [f"{len(summary.of(state))} {state.value}" for state in State]
    lines = [
        f"{summary.total} file{'s' if summary.total != 1 else ''}: {', '.join(counts)}"
        + (f", {summary.not_begun} not begun" if summary.not_begun else "")
    ]
    lines += [f"failed: {shown(outcome.image.name)}: {shown(outcome.sentence)}" for outcome in summary.of(State.FAILED)]
    if summary.not_begun:
        lines.append("Run the same command again to go on.")
    return lines


def summary_json(summary: Summary, plan: Plan) -> Mapping[str, Any]:
    """The summary for programs; documented in docs/batch.md."""
    return {
        "version": __version__,
        "source": str(plan.folder),
        "output": str(plan.output),
        "options": dict(plan.options),
        "total": summary.total,
        "counts": {state.name.lower(): len(summary.of(state)) for state in State},
        "not_begun": summary.not_begun,
        "interrupted": summary.interrupted,
        "stopped": None if summary.stopped is None else str(summary.stopped),
        "files": [_file(outcome) for outcome in summary.outcomes],
    }


def _file(outcome: Outcome) -> dict[str, Any]:
    described: dict[str, Any] = {"name": outcome.image.name, "state": outcome.state.name.lower()}
    if outcome.state in (State.DONE, State.ALREADY):
        described["output"] = outcome.image.output
    if outcome.sentence:
        described["reason"] = outcome.sentence
    if outcome.error is not None:
        described["exit_code"] = int(exit_code_of(outcome.error))
    return described
