"""Searching bytes for a secret in every plain encoding: what a wire, a file, a log or a process title would show.

Covered: raw bytes; hex, base64 (standard and URL, at all three alignments); UTF-8 and UTF-16; Python's repr and protobuf's
text, as they are and in JSON; arrays as float32, float64, int16, int32, int64 and fixed point in both byte orders; numbers as
JSON, repr or tensors print them. Not covered: compression, encryption, and encodings made to hide; those are not accidents.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from google.protobuf.text_encoding import CEscape

FIXED_BITS: Final = (12, 16)  # the grids of weights and of pixels
SHORTEST: Final = 6  # bytes of a pattern: 256^-6 times 100 MB is under one in a million of chance
FIRST_BASE64: Final = 8  # bytes of a key that are searched as base64 at least


@dataclass(frozen=True)
class Needle:
    """One encoding of one secret."""

    secret: str
    encoding: str
    pattern: bytes = field(repr=False)


def key_needles(secret: str, key: bytes) -> list[Needle]:
    """A key or other secret bytes."""
    found = [("raw", key), ("raw, reversed", key[::-1]), ("hex", key.hex().encode()), ("HEX", key.hex().upper().encode())]
    found.append(("UTF-16 hex", key.hex().encode("utf-16-le")))
    for name, text in (("repr", repr(key)[2:-1]), ("printed protobuf", CEscape(key, as_utf8=False))):
        found += [(name, text.encode()), (f"{name} in JSON", json.dumps(text)[1:-1].encode())]
    found += [("list", ", ".join(str(byte) for byte in key).encode()), ("list without spaces", ",".join(map(str, key)).encode())]
    found += [(f"base64 at {shift}", pattern) for shift, pattern in _base64(key)]
    found += [(f"base64 of hex at {shift}", pattern) for shift, pattern in _base64(key.hex().encode())]
    return _kept(secret, found)


def text_needles(secret: str, text: str) -> list[Needle]:
    """A text such as a name in a header, or a token."""
    found = []
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        content = text.encode(encoding)
        found += [(encoding, content), (f"{encoding} as hex", content.hex().encode())]
        found += [(f"{encoding} as base64 at {shift}", pattern) for shift, pattern in _base64(content)]
    return _kept(secret, found)


def number_needles(secret: str, run: Sequence[float], *, stored: Sequence[int] = ()) -> list[Needle]:
    """Consecutive values of an array (at least four). stored: the same values as integers of a file, where there are any."""
    reals = np.asarray(run, dtype=np.float64)
    found: list[tuple[str, bytes]] = []
    for kind in ("f4", "f8"):
        found += [(f"{order}{kind}", reals.astype(f"{order}{kind}").tobytes()) for order in "<>"]
    for bits in FIXED_BITS:
        words = np.rint(reals * (1 << bits)).astype(np.int64)
        for kind in ("i4", "i8"):
            found += [(f"{order}{kind} fixed point 2^-{bits}", words.astype(f"{order}{kind}").tobytes()) for order in "<>"]
        found += _printed(f"fixed point 2^-{bits}", [str(word) for word in words])
    if len(stored):
        whole = np.asarray(stored, dtype=np.int64)
        found += [
            (f"{order}{kind} as stored", whole.astype(f"{order}{kind}").tobytes())
            for order in "<>"
            for kind in ("i2", "i4", "i8")
        ]
        found += _printed("as stored", [str(value) for value in whole])
    raw = list(found)
    found += [(f"{name} as hex", pattern.hex().encode()) for name, pattern in raw]
    found += [(f"{name} as base64 at {shift}", part) for name, pattern in raw for shift, part in _base64(pattern)]
    found += _printed("repr", [repr(float(value)) for value in reals])
    found += _printed("repr of float32", [repr(float(np.float32(value))) for value in reals])
    for digits in (4, 6, 8):
        found += _printed(f"{digits} decimals", [f"{value:.{digits}f}" for value in reals])
        found += _printed(f"{digits} digits", [f"{value:.{digits}g}" for value in reals])
    return _kept(secret, found)


def search(content: bytes, needles: Iterable[Needle]) -> list[Needle]:
    """The needles that are in the content."""
    return [needle for needle in needles if needle.pattern in content]


def _printed(name: str, values: Sequence[str]) -> list[tuple[str, bytes]]:
    """Numbers in a row, as JSON, Python, numpy and torch would join them."""
    return [(f"{name}, joined by {joint!r}", joint.join(values).encode()) for joint in (", ", ",", " ", "\n")]


def _base64(content: bytes) -> list[tuple[int, bytes]]:
    """What base64 of a longer text around `content` contains, for its three possible alignments, in both alphabets."""
    out = []
    for shift in range(3):
        start = -shift % 3  # bytes of ours that share a group with what stands before
        whole = content[start : start + (len(content) - start) // 3 * 3]
        if len(whole) >= FIRST_BASE64:
            out += [(shift, encode(whole)) for encode in (base64.b64encode, base64.urlsafe_b64encode)]
    return out


def _kept(secret: str, found: Iterable[tuple[str, bytes]]) -> list[Needle]:
    unique = {pattern: name for name, pattern in found if len(pattern) >= SHORTEST}
    return [Needle(secret, name, pattern) for pattern, name in unique.items()]
