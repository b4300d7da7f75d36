"""What a batch has begun and finished: `.darkroom-batch.jsonl` in the output folder, one JSON object a line, only ever added to.

The first line has the batch's salt: each source series becomes one series of results, however often it is interrupted.
A result counts as done while the source's SHA-256, the options and the result's size are those that were noted. The line that an
image is begun is on disk before its result is: so a result that no line names is somebody else's, and is not replaced. A line
that a crash has torn is passed over; its image is done again. Mode 0600: names and digests of images are the hospital's.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.dicom_derived import SALT_BYTES, Derivation
from client.files import PRIVATE_MODE
from protocols.errors import BadInputError, ConfigurationError

NAME: Final = ".darkroom-batch.jsonl"
FORMAT: Final = 1
_PART: Final = re.compile(r"\..*\.[0-9a-f]{16}\.part", re.DOTALL)  # `client.files.replacing` leaves one where it is killed
_CHUNK_BYTES: Final = 1 << 20

BEGUN: Final = "begun"
DONE: Final = "done"
DAMAGED: Final = "damaged"


@dataclass(frozen=True)
class Source:
    """What a result is the result of."""

    folder: str  # that is denoised, in full
    name: str  # relative to it
    sha256: str
    options: Mapping[str, Any]


class Manifest:
    """The open manifest of one output folder. Safe with threads: a line is one write to a file opened for appending."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self._latest: dict[str, dict[str, Any]] = {}  # by the result's name
        self._salt = self._read() or self._draw()

    def derivation(self, options: Mapping[str, Any], *, anonymous: bool) -> Derivation:
        """For all results of these options in this folder: one series for each of the sources'."""
        return Derivation(salt_for(self._salt, options), anonymous)

    def is_done(self, source: Source, output: str) -> bool:
        """Whether the result is there, of the same content with the same options."""
        line = self._latest.get(output, {})
        if line.get("state") != DONE or not _matches(line, source):
            return False
        try:
            return (self._folder / output).stat().st_size == line.get("output_bytes")
        except OSError:
            return False

    def is_damaged(self, source: Source, output: str) -> bool:
        """Whether the edge refused the result of just this work before (`IntegrityError`)."""
        line = self._latest.get(output, {})
        return line.get("state") == DAMAGED and _matches(line, source)

    def require_ours(self, source: Source, output: str) -> None:
        """Raises BadInputError: in the result's place is a file that no batch has put there, or the result of another folder."""
        path = self._folder / output
        if not path.exists() and not path.is_symlink():
            return
        line = self._latest.get(output)
        if line is None:
            raise BadInputError(f"{path} exists and is not of this batch: move it away, or choose another output folder")
        if line.get("folder") != source.folder:
            raise BadInputError(f"{path} is the result of {line.get('folder')}: move it away, or choose another output folder")

    def begin(self, source: Source, output: str) -> None:
        """Note that the result's file is ours from now on. Raises ConfigurationError: the disk is full or closed."""
        self._append(source, output, BEGUN)

    def finish(self, source: Source, output: str) -> None:
        """Note that the result is there in full. Raises ConfigurationError."""
        self._append(source, output, DONE, output_bytes=(self._folder / output).stat().st_size)

    def refuse(self, source: Source, output: str) -> None:
        """Note that the edge refused the result. Raises ConfigurationError."""
        self._append(source, output, DAMAGED)

    def _append(self, source: Source, output: str, state: str, **more: int) -> None:
        line = {"format": FORMAT, "state": state, "output": output, **vars(source), **more}
        self._write(json.dumps(line).encode() + b"\n")
        self._latest[output] = line

    def _write(self, content: bytes) -> None:
        try:
            if os.write(self._descriptor, content) != len(content):
                raise OSError("only a part was written")
            os.fsync(self._descriptor)
        except OSError as error:
            path = self._folder / NAME
            raise ConfigurationError(f"{path} cannot be written ({error.strerror or error}): is the disk full?") from error

    def _draw(self) -> bytes:
        salt = secrets.token_bytes(SALT_BYTES)
        self._write(json.dumps({"format": FORMAT, "salt": salt.hex()}).encode() + b"\n")
        return salt

    def _read(self) -> bytes:
        salt = b""
        content = (self._folder / NAME).read_bytes()
        for text in content.splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue  # torn by a crash
            if not isinstance(line, dict) or line.get("format") != FORMAT:
                continue
            if isinstance(line.get("output"), str):
                self._latest[line["output"]] = line
            else:
                salt = salt or _salt_of(line)
        if content and not content.endswith(b"\n"):
            self._write(b"\n")  # the next line must not be glued to a torn one
        return salt


@contextmanager
def open_manifest(folder: Path) -> Generator[Manifest]:
    """Make the output folder where needed, hold it for this batch alone, and remove what killed batches left half written.

    Raises ConfigurationError: the folder cannot be made or written, or another batch is at work in it.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_MODE)
    except OSError as error:
        raise ConfigurationError(f"the output folder {folder} cannot be used: {error.strerror or error}") from error
    try:
        _lock(descriptor, folder)
        for place, _, files in os.walk(folder):
            for name in files:
                if _PART.fullmatch(name):
                    Path(place, name).unlink(missing_ok=True)
        yield Manifest(folder, descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(f"another batch writes to {folder}: wait for it, or choose another output folder") from error


def salt_for(salt: bytes, options: Mapping[str, Any]) -> bytes:
    """Other options make other series: results of two noise levels are not slices of one volume."""
    return hashlib.sha256(salt + json.dumps(options, sort_keys=True).encode()).digest()[:SALT_BYTES]


def _salt_of(line: Mapping[str, Any]) -> bytes:
    try:
        return bytes.fromhex(line["salt"])
    except (KeyError, TypeError, ValueError):
        return b""  # damaged: a new one is drawn


def digest(path: Path) -> str:
    """The SHA-256 of a source. Raises BadInputError."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                found.update(chunk)
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}") from error
    return found.hexdigest()


def _matches(line: Mapping[str, Any], source: Source) -> bool:
    """Whether a line is of this work. Not of this folder: a folder that was moved holds the same images."""
    return (line.get("sha256"), line.get("options")) == (source.sha256, source.options)
