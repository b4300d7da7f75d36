"""An error of a command as JSON, for scripts that asked for JSON: what `--json` has in place of a result."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from darkroom.exit_codes import exit_code_of
from darkroom.output import write_json
from protocols.errors import DarkroomError, PeerUnavailableError


def error_report(error: DarkroomError) -> dict[str, Any]:
    """Kind, sentence, exit code, and in how many seconds to try again (null: nothing was said about it)."""
    retry = error.retry_seconds if isinstance(error, PeerUnavailableError) else None
    code = int(exit_code_of(error))
    return {"error": {"kind": type(error).__name__, "message": str(error), "exit_code": code, "retry_after_seconds": retry}}


@contextmanager
def told_as_json(path: str | None) -> Generator[None]:
    """Write an error of the block where `--json` asks for the result; the error goes on. Raises it."""
    try:
        yield
    except DarkroomError as error:
        write_json(error_report(error), path)
        raise
