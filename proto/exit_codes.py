"""The one table between Darkroom's errors and exit codes: of the command line, and of servers and dealer."""

from enum import IntEnum
from typing import Final

from protocols.errors import (
    AccessDenied,
    BadInputError,
    ConfigurationError,
    DarkroomError,
    IntegrityError,
    PeerUnavailableError,
    ProtocolError,
)


class ExitCode(IntEnum):
    """What a script can rely on."""

    OK = 0
    USAGE = 2
    BAD_INPUT = 3
    CONFIGURATION = 4
    PEER = 5
    ACCESS = 6
    INTEGRITY = 7
    PROTOCOL = 8
    INTERRUPTED = 130


# Subclasses go with their base: no class stands in two rows.
TABLE: Final[tuple[tuple[type[DarkroomError], ExitCode], ...]] = (
    (BadInputError, ExitCode.BAD_INPUT),
    (ConfigurationError, ExitCode.CONFIGURATION),
    (PeerUnavailableError, ExitCode.PEER),
    (AccessDenied, ExitCode.ACCESS),
    (IntegrityError, ExitCode.INTEGRITY),
    (ProtocolError, ExitCode.PROTOCOL),
)


def exit_code_of(error: DarkroomError) -> ExitCode:
    """The exit code of an error; a kind that the table does not know is a breach of the protocol."""
    return next((code for kind, code in TABLE if isinstance(error, kind)), ExitCode.PROTOCOL)
