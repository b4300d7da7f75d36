"""An error of a command as JSON, for scripts that asked for JSON: what `--json` has in place of a result."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from darkroom.output import err, require_place_for_json, write_json
from proto.exit_codes import exit_code_of
from protocols.errors import DarkroomError, PeerUnavailableError


def error_report(error: DarkroomError) -> dict[str, Any]:
    """Kind, sentence, exit code, and in how many seconds to try again (null: nothing was said about it)."""
    retry = error.retry_seconds if isinstance(error, PeerUnavailableError) else None
    code = int(exit_code_of(error))
    return {"error": {"kind": type(error).__name__, "message": str(error), "exit_code": code, "retry_after_seconds": retry}}


@contextmanager
def told_as_json(path: str | None, *, makes: Path | None = None) -> Generator[dict[str, Any]]:
    """Write an error of the block where `--json` asks for the result; the error goes on. Raises it.

    What the block puts into the dictionary is written beside the error: what was done by then. makes: a folder that the block
    makes. Raises ConfigurationError before the block: there is nowhere to write to. Where writing fails only now, that is a note:
    it must not stand in place of the error.
    """
    require_place_for_json(path, makes=makes)
    done: dict[str, Any] = {}
    try:
        yield done
    except DarkroomError as error:
        try:
            write_json(error_report(error) | done, path)
        except DarkroomError as unwritten:
            if str(unwritten) != str(error):  # else the block had found that out
                err().print(f"note: {unwritten}", markup=False)
        raise
