"""A party's view as it happens: every message that it receives or sends, and what it hands to its worker, in one file.

What a server derives (masks from seeds, its output share) is a function of these entries, so they are its whole view; TLS
and gRPC's framing are left out, which an outsider sees and a party does not need. Entries of different links interleave as
threads run; the order within one link and direction is the protocol's.
"""

import os
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from proto import darkroom_pb2 as pb

RECEIVED: Final = "received"
SENT: Final = "sent"
HELD: Final = "held"
METADATA: Final = "metadata"  # of a call that this party answers, both ways; recorded apart, since it is no message
ENDED: Final = "ended"  # of a call that this party answers: the payload is how
_LENGTHS: Final = struct.Struct("<HHHI")


@dataclass(frozen=True, eq=False)
class Entry:
    """One message of one party."""

    link: str  # "edge Denoise": the peer and the call
    direction: str
    kind: str  # name of the protobuf message
    payload: bytes = field(repr=False)

    def message(self) -> Any:
        """The message itself."""
        return getattr(pb, self.kind).FromString(self.payload)


class Recorder:
    """Appends to one file; safe for several threads, and each entry is written at once."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def message(self, link: str, direction: str, message: Any) -> None:
        """A protobuf message."""
        self.entry(Entry(link, direction, message.DESCRIPTOR.name, message.SerializeToString()))

    def metadata(self, link: str, direction: str, pairs: Iterable[tuple[str, str | bytes]]) -> None:
        """What a call carries beside its messages: names and values, of the caller's, of gRPC's own, and what is sent back."""
        for name, value in pairs:
            content = value if isinstance(value, bytes) else value.encode()
            self.entry(Entry(link, direction, METADATA, name.encode() + b": " + content))

    def entry(self, entry: Entry) -> None:
        """Any entry."""
        texts = [text.encode() for text in (entry.link, entry.direction, entry.kind)]
        header = _LENGTHS.pack(*(len(text) for text in texts), len(entry.payload))
        with self._lock:
            os.write(self._descriptor, b"".join([header, *texts, entry.payload]))


def read_entries(path: Path, start: int = 0) -> tuple[list[Entry], int]:
    """All entries from byte `start` on, and where the next ones will begin."""
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        content = file.read()
    entries = []
    offset = 0
    while offset < len(content):
        *lengths, size = _LENGTHS.unpack_from(content, offset)
        offset += _LENGTHS.size
        texts = []
        for length in lengths:
            texts.append(content[offset : offset + length].decode())
            offset += length
        entries.append(Entry(texts[0], texts[1], texts[2], content[offset : offset + size]))
        offset += size
    return entries, start + offset
