"""Folders that a party must be able to write: found out by writing, because a mode says nothing of full and read-only disks."""

import errno
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from protocols.errors import ConfigurationError


def require_writable(folder: Path, what: str, *, content: bytes = b"\n") -> None:
    """Write and remove a file in a folder, or, where it is not there yet, in the one that it will be made in.

    what: of the party's, for the message. content: nothing where a full disk shall pass. Raises ConfigurationError.
    """
    with writing(folder, what):
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        probe = existing / f".probe.{secrets.token_hex(8)}.part"  # as a share that is not whole: a store sweeps it
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, what: str) -> Generator[None]:
    """Say what to do where the block cannot write `path`. Raises ConfigurationError for every OSError in it."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{what} {path} cannot be written: {error.strerror}. {_remedy(path, error)}") from error


def _remedy(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space on its disk"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "A file stands in the place of a folder: move it away, or name another place in the settings"
    if error.errno == errno.EISDIR:
        return "A folder stands in its place: move it away, or name another place in the settings"
    if error.errno == errno.EROFS:
        return "Mount its disk for writing, or name another place in the settings"
    return f"It must belong to the user that runs this party, which is now {os.geteuid()}: chown -R {os.geteuid()} {path}"
