"""Files that are written whole or not at all, and files that only their owner may read.

Assumes a POSIX file system: a rename inside one folder is atomic.
"""

import errno
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from protocols.errors import BadInputError, ConfigurationError

PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o666  # less the umask, as any program's output
_OTHERS: Final = 0o077
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NUMPY_SHORT: Final = "requested and"  # numpy writes to files by itself: "16384 requested and 8176 written" is its full disk


@contextmanager
def replacing(path: Path, *, mode: int = PUBLIC_MODE) -> Generator[BinaryIO]:
    """Write a file beside `path` and rename it over `path` when the block ends well; otherwise leave no trace.

    Raises ConfigurationError: the folder is missing, closed or full.
    """
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(part, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def create_private(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600; where that does not end well (Ctrl-C too), leave no trace.

    Raises ConfigurationError: it exists already (never overwritten), or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} exists and is not overwritten: what was made with an old key needs that key; move it away first"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    whole = False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        whole = True
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if not whole:  # a part of a key would stand in the way of the next attempt, and never be overwritten
            path.unlink(missing_ok=True)


def read_file(path: Path, purpose: str) -> bytes:
    """Read a configured file. Raises ConfigurationError with what it is for."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{purpose} {path} cannot be read: {error.strerror or error}") from error


def read_private(path: Path, purpose: str) -> bytes:
    """Read a secret file. Raises ConfigurationError: it cannot be read, or group or others may read or write it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _OTHERS:
                raise ConfigurationError(
                    f"{purpose} {path} has mode {mode & 0o777:04o}: others than its owner can use it. Run: chmod 600 {path}"
                )
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"{purpose} {path} cannot be read: {error.strerror or error}") from error


def require_regular(path: Path, limit: int) -> int:
    """The size of a user's file. Raises BadInputError: missing, a folder or device, or larger than `limit` bytes."""
    try:
        status = path.stat()
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not path.is_file():
        raise BadInputError(f"{path} is not a regular file")
    if status.st_size > limit:
        raise BadInputError(f"{path} has {status.st_size} bytes; at most {limit} are read")
    return status.st_size


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    short = error.errno is None and _NUMPY_SHORT in str(error)
    if error.errno in _NO_SPACE or short:
        return ConfigurationError(f"{path} was not written, the disk is full: free some space in {path.parent} and try again")
    return ConfigurationError(f"{path} cannot be written: {error.strerror or error}")
