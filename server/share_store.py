"""Shares at rest: one file per object or model, with a header message and the share's bytes. Written whole or not at all.

A packed share is uniform (keyed mode), so what a thief of one store finds is noise; DESIGN section 7 says what a thief of
both finds.
"""

import os
import re
import secrets
import struct
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from proto.writable import require_writable, writing
from protocols.errors import BadInputError, NotFoundError, PeerUnavailableError, RemoteProtocolError
from protocols.unpicklable import Unpicklable

_LENGTH: Final = struct.Struct("<I")
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, eq=False)
class StoredShare(Unpicklable):
    """A header message (serialised) and the share's words; the words are empty where the header holds a seed."""

    header: bytes = field(repr=False)
    words: bytes = field(repr=False)


class ShareStore:
    """A folder of shares. Names are identifiers or checked model names, never a caller's path.

    `read` takes a share into memory; `read_header` only what is public about it, so that what waits in line holds no share.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is not there. Raises ConfigurationError: it cannot be read or written."""
        self._folder = folder
        self._placing = threading.Lock()
        with writing(folder, "the store"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in os.listdir(folder):  # glob would pass over a folder that cannot be read
                if name.startswith(".") and name.endswith(".part"):  # a write that a crash cut off
                    (folder / name).unlink(missing_ok=True)
        require_writable(folder, "the store", content=b"")  # a full disk passes: objects can be deleted then

    def _path(self, name: str) -> Path:
        if not MODEL_NAME.fullmatch(name):
            raise BadInputError(f"{name[:80]!r} is not a name: letters, digits, dot, dash and underscore, at most 64")
        return self._folder / f"{name}.share"

    def names(self) -> list[str]:
        """Everything stored, in alphabetical order."""
        return sorted(path.stem for path in self._folder.glob("*.share"))

    def write(self, name: str, header: bytes, chunks: Iterable[bytes], total_bytes: int, *, replace: bool) -> None:
        """Store a share as its chunks arrive. Raises as `arriving`."""
        with self.arriving(name, header, chunks, total_bytes, replace=replace):
            pass

    @contextmanager
    def arriving(
        self, name: str, header: bytes, chunks: Iterable[bytes], total_bytes: int, *, replace: bool
    ) -> Generator[Callable[[], StoredShare]]:
        """Take a share in as its chunks arrive; it is stored under its name when the block ends well, and dropped otherwise.

        Yields what reads it meanwhile. Raises BadInputError: the name is taken (and not `replace`). RemoteProtocolError: too few
        or too many bytes. PeerUnavailableError: the disk is full.
        """
        path = self._path(name)
        self._refuse_taken(name, replace)
        part = self._folder / f".{name}.{secrets.token_hex(4)}.part"
        try:
            with _on_our_disk():
                _write_part(part, header, chunks, total_bytes)
            yield lambda: _parsed(part.read_bytes())
            with _on_our_disk(), self._placing:
                self._refuse_taken(name, replace)  # another upload of the same name may have been faster
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _refuse_taken(self, name: str, replace: bool) -> None:
        if not replace and self._path(name).exists():
            raise BadInputError(f"{name} is stored already; identifiers are used once")

    def read(self, name: str) -> StoredShare:
        """Raises NotFoundError."""
        try:
            content = self._path(name).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"{name} is not stored on this server") from error
        return _parsed(content)

    def read_header(self, name: str) -> bytes:
        """The header message alone. Raises NotFoundError."""
        try:
            with open(self._path(name), "rb") as file:
                (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
                return file.read(length)
        except FileNotFoundError as error:
            raise NotFoundError(f"{name} is not stored on this server") from error

    def usage(self) -> tuple[int, int]:
        """How many shares there are, and their bytes."""
        sizes = []
        for entry in self._folder.glob("*.share"):
            try:
                sizes.append(entry.stat().st_size)
            except FileNotFoundError:
                pass  # deleted meanwhile
        return len(sizes), sum(sizes)

    def delete(self, name: str) -> None:
        """Raises NotFoundError."""
        try:
            self._path(name).unlink()
        except FileNotFoundError as error:
            raise NotFoundError(f"{name} is not stored on this server") from error


def _write_part(part: Path, header: bytes, chunks: Iterable[bytes], total_bytes: int) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_LENGTH.pack(len(header)) + header)
        received = 0
        for chunk in chunks:
            received += len(chunk)
            if received > total_bytes:
                raise RemoteProtocolError(f"the share has more than the {total_bytes} bytes that its shape says")
            file.write(chunk)
        if received != total_bytes:
            raise RemoteProtocolError(f"the share has {received} bytes; its shape says {total_bytes}")
        file.flush()
        os.fsync(file.fileno())


def _parsed(content: bytes) -> StoredShare:
    (length,) = _LENGTH.unpack_from(content)
    start = _LENGTH.size
    return StoredShare(content[start : start + length], content[start + length :])


@contextmanager
def _on_our_disk() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise PeerUnavailableError(
            f"this server cannot store the share: {error.strerror}; its operator must see to the disk of its store"
        ) from error
