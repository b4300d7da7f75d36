"""Entry point of the console script `darkroom`, and of `python -m darkroom`: errors become sentences and exit codes."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn, TextIO, cast

INTERRUPTED: Final = 130  # `proto.exit_codes` says the same; importing it takes time in which Ctrl-C may come


def main() -> NoReturn:
    """Run one command and exit with the code that it deserves (`proto.exit_codes`)."""
    try:
        code = _run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("darkroom: interrupted", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # Everything is put away. After `sys.exit` CPython may still end us by SIGINT: a KeyboardInterrupt that passed through
        # Python run by C code, as in the import of torch, counts as unhandled for it whatever we do.
        os._exit(INTERRUPTED)
    sys.exit(code)


def _run() -> int | str | None:
    """Run one command; its exit code."""
    # Before gRPC is imported: its own lines about sockets and handshakes are not for users; our errors say the same.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)

    from darkroom.cli import app
    from darkroom.output import CheckedOutput, err
    from proto.exit_codes import exit_code_of
    from proto.logs import configure_logs
    from protocols.errors import DarkroomError

    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    # A service tells by its log that it works, a command by its result.
    os.environ.setdefault("DARKROOM_LOG", "INFO" if arguments[:1] == ["serve-dicom"] else "WARNING")
    configure_logs()
    debug = len(arguments) < len(sys.argv) - 1 or os.environ.get("DARKROOM_DEBUG", "") not in ("", "0")
    try:
        with contextlib.redirect_stdout(cast("TextIO", CheckedOutput(sys.stdout))):
            code = _told(app, arguments)
            sys.stdout.flush()
        return code
    except DarkroomError as error:
        if debug:
            traceback.print_exception(error)
        err().print(f"darkroom: {error}", markup=False)
        return exit_code_of(error)


def _told(app: Callable[..., object], arguments: list[str]) -> int | str | None:
    """Run the command line; its exit code. Raises DarkroomError."""
    try:
        app(arguments, prog_name="darkroom")
    except SystemExit as stop:
        return stop.code
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, so that what it stored is deleted and what it started stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
