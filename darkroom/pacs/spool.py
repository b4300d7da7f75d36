"""The spool: what has been received and is not yet delivered, on disk, so that a restart loses nothing.

    incoming/ID.dcm   received, to be denoised          outgoing/ID.dcm   denoised, to be sent
    failed/ID.dcm     neither, and failed/ID.txt says why; moved back to where it came from, it is tried again

An object is acknowledged to its sender when it is on disk, file and folder entry synchronised. Its id is the start of the SHA-256
of what was received: an object that comes twice while it waits is one. Folders have mode 0700, files 0600. Assumes POSIX.
"""

import contextlib
import enum
import fcntl
import hashlib
import os
import secrets
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.dicom_derived import SALT_BYTES
from client.files import PRIVATE_MODE, create_private, read_private, replacing
from protocols.errors import ConfigurationError

_FOLDER_MODE: Final = 0o700
_OTHERS: Final = 0o077
_WORK: Final = "work"  # results while they are written
_LOCK: Final = ".lock"
_SALT: Final = ".salt"  # of the results' series: each source series becomes one, over restarts too
ID_DIGITS: Final = 32


class Stage(enum.Enum):
    """Where an object is on its way."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"
    FAILED = "failed"


@dataclass(frozen=True)
class Entry:
    """One object in the spool. The id says nothing of the patient."""

    entry_id: str
    stage: Stage
    path: Path


class Spool:
    """One open spool. Safe with threads."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()

    def salt(self) -> bytes:
        """Drawn when the spool was made. Raises ConfigurationError."""
        path = self._folder / _SALT
        if not path.exists():
            create_private(path, secrets.token_bytes(SALT_BYTES))
        found = read_private(path, "the spool's salt")
        if len(found) != SALT_BYTES:
            raise ConfigurationError(f"{path} has {len(found)} bytes, not {SALT_BYTES}: delete it, and results begin new series")
        return found

    def add(self, content: bytes) -> str:
        """Put a received object (a DICOM file's bytes) on disk; its id. Only then may its sender be told that we have it.

        Raises ConfigurationError: the spool's bound is reached, or the disk is full or closed.
        """
        entry_id = hashlib.sha256(content).hexdigest()[:ID_DIGITS]
        with self._lock:
            if any(self._path(stage, entry_id).exists() for stage in (Stage.INCOMING, Stage.OUTGOING)):
                return entry_id
            used = self.used_bytes()
            if used + len(content) > self._max_bytes:
                raise ConfigurationError(
                    f"the spool {self._folder} is full: {used} bytes of {self._max_bytes} are used; see what keeps it from"
                    f" being sent, empty {self._folder / Stage.FAILED.value}, or raise --max-spool-bytes"
                )
            path = self._path(Stage.INCOMING, entry_id)
            with replacing(path, mode=PRIVATE_MODE) as file:
                file.write(content)
            self._sync(path.parent)
            self._forget_failure(entry_id)  # sent again, it is tried again
        return entry_id

    def oldest(self, stage: Stage) -> Entry | None:
        """The next object of a stage, in the order of arrival. Raises ConfigurationError."""
        with self._writing(self._folder / stage.value):
            waiting = []
            for path in (self._folder / stage.value).glob("*.dcm"):
                with contextlib.suppress(FileNotFoundError):
                    waiting.append((path.stat().st_mtime_ns, path.name, path))
        if not waiting:
            return None
        path = min(waiting)[2]
        return Entry(path.stem, stage, path)

    def count(self, stage: Stage) -> int:
        """How many objects wait there."""
        return sum(1 for _ in (self._folder / stage.value).glob("*.dcm"))

    def used_bytes(self) -> int:
        """What counts against the bound: every object, failed ones too."""
        return sum(path.stat().st_size for stage in Stage for path in (self._folder / stage.value).glob("*.dcm"))

    def work_path(self, entry: Entry) -> Path:
        """Where the result of an incoming object is written."""
        return self._folder / _WORK / f"{entry.entry_id}.dcm"

    def denoised(self, entry: Entry) -> None:
        """The result at `work_path` is whole: it goes out, its source goes. Raises ConfigurationError."""
        with self._lock, self._writing(entry.path):
            self.work_path(entry).chmod(PRIVATE_MODE)
            # The queue keeps its order, by the time of arrival.
            arrived = entry.path.stat()
            os.utime(self.work_path(entry), ns=(arrived.st_atime_ns, arrived.st_mtime_ns))
            self.work_path(entry).replace(self._path(Stage.OUTGOING, entry.entry_id))
            self._sync(self._folder / Stage.OUTGOING.value)
            entry.path.unlink()

    def unchanged(self, entry: Entry) -> None:
        """An incoming object goes out as it came. Raises ConfigurationError."""
        with self._lock, self._writing(entry.path):
            entry.path.replace(self._path(Stage.OUTGOING, entry.entry_id))
            self._sync(self._folder / Stage.OUTGOING.value)

    def delivered(self, entry: Entry) -> None:
        """The destination has it: it goes. Raises ConfigurationError."""
        with self._lock, self._writing(entry.path):
            entry.path.unlink(missing_ok=True)

    def fail(self, entry: Entry, sentence: str) -> None:
        """An object that no further try would bring on: put aside with the reason. Raises ConfigurationError."""
        target = self._path(Stage.FAILED, entry.entry_id)
        text = f"{sentence}\n\nTo try again: mv {target} {entry.path}\n"
        with self._lock, self._writing(entry.path):
            with replacing(target.with_suffix(".txt"), mode=PRIVATE_MODE) as file:
                file.write(text.encode(errors="backslashreplace"))
            entry.path.replace(target)
            self._sync(target.parent)

    def recover(self) -> None:
        """Put right what a crash has left: half-written files, and a source whose result is out. Raises ConfigurationError."""
        with self._writing(self._folder):
            for path in (self._folder / _WORK).iterdir():
                path.unlink()
            for stage in Stage:
                for part in (self._folder / stage.value).glob(".*.part"):
                    part.unlink()
            for path in (self._folder / Stage.OUTGOING.value).glob("*.dcm"):
                self._path(Stage.INCOMING, path.stem).unlink(missing_ok=True)

    def _path(self, stage: Stage, entry_id: str) -> Path:
        return self._folder / stage.value / f"{entry_id}.dcm"

    def _forget_failure(self, entry_id: str) -> None:
        failed = self._path(Stage.FAILED, entry_id)
        with self._writing(failed):
            failed.unlink(missing_ok=True)
            failed.with_suffix(".txt").unlink(missing_ok=True)

    def _sync(self, folder: Path) -> None:
        """A file's entry in its folder is on disk too: `replacing` has synchronised its content."""
        with self._writing(folder):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigurationError(f"the spool cannot be written at {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def open_spool(folder: Path, max_bytes: int) -> Generator[Spool]:
    """Make the spool where needed, hold it for this process alone, and put right what a crash has left.

    Raises ConfigurationError: it cannot be made, others can read it, or another process serves from it.
    """
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        mode = folder.stat().st_mode & 0o777
        if mode & _OTHERS:
            raise ConfigurationError(
                f"the spool {folder} has mode {mode:04o}: others can read what waits in it. Run: chmod 700 {folder}"
            )
        for name in (*(stage.value for stage in Stage), _WORK):
            (folder / name).mkdir(mode=_FOLDER_MODE, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, PRIVATE_MODE)
    except OSError as error:
        raise ConfigurationError(f"the spool {folder} cannot be made: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"another process serves from the spool {folder}: stop it, or name another --spool"
            ) from error
        spool = Spool(folder, max_bytes)
        spool.recover()
        yield spool
    finally:
        os.close(descriptor)
