"""Pseudorandom streams over Z_{2^64}: AES-256 in counter mode, keyed by HKDF-SHA256.

Assumes AES-256 is a pseudorandom function and keys come from the operating system (`fresh_key`) or from HKDF of
such a key. A stream is addressed by two 32-bit labels, not by a running counter: the same (key, label, kind) is always
the same words, and two labels never overlap (the remaining 64 bits of the counter block count 16-byte blocks).
Source: NIST SP 800-38A section 6.5 (CTR); RFC 5869 (HKDF).
"""

import math
import secrets
import sys
from dataclasses import dataclass, field
from typing import Final

import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jaxtyping import Int64
from torch import Tensor

from protocols.errors import LocalProtocolError
from protocols.unpicklable import Unpicklable

KEY_BYTES: Final = 32
# What counter mode encrypts, by pieces that stay in cache: whole messages of zeros would cost more than AES does.
_ZEROS: Final = bytes(1 << 16)


def fresh_key() -> bytes:
    """32 bytes from the operating system."""
    return secrets.token_bytes(KEY_BYTES)


def derive_key(secret: bytes, *context: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 with an unambiguous encoding of the context: each part is preceded by its length."""
    info = b"darkroom/v1" + b"".join(len(part).to_bytes(4, "big") + part for part in context)
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(secret)


@dataclass(frozen=True, eq=False)
class Prg(Unpicklable):
    """A family of independent streams under one key."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise LocalProtocolError(f"a PRG key has {KEY_BYTES} bytes, not {len(self.key)}")

    def stream(self, label: int, kind: int, count: int) -> bytearray:
        """`count` bytes of the stream (label, kind)."""
        out = bytearray(count)
        Keystream(self.key, label, kind).fill(memoryview(out))
        return out

    def words(self, label: int, kind: int, shape: tuple[int, ...]) -> Int64[Tensor, "..."]:
        """Uniform elements of Z_{2^64}, little-endian words of the stream (label, kind)."""
        return self.reader(label, kind).words(math.prod(shape)).view(shape)

    def reader(self, label: int, kind: int) -> "WordReader":
        """The words of the stream (label, kind) from its beginning, piece by piece."""
        return WordReader(Keystream(self.key, label, kind))


class Keystream(Unpicklable):
    """One stream, read from its beginning to wherever the reader stops."""

    def __init__(self, key: bytes, label: int, kind: int) -> None:
        if not (0 <= label < 1 << 32 and 0 <= kind < 1 << 32):
            raise LocalProtocolError(f"stream label {label} or kind {kind} does not fit 32 bits")
        initial = label.to_bytes(4, "big") + kind.to_bytes(4, "big") + bytes(8)
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(initial)).encryptor()

    def fill(self, out: memoryview) -> None:
        """The next bytes of the stream."""
        for start in range(0, len(out), len(_ZEROS)):
            piece = out[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS if len(piece) == len(_ZEROS) else bytes(len(piece)), piece)


class WordReader(Unpicklable):
    """Uniform elements of Z_{2^64}: pieces of one stream, in order, none twice."""

    def __init__(self, keystream: Keystream) -> None:
        self._keystream = keystream

    def words(self, count: int) -> Int64[Tensor, " count"]:
        """The next words, in memory of their own."""
        return self.fill(torch.empty(count, dtype=torch.int64))

    def fill(self, out: Int64[Tensor, " count"]) -> Int64[Tensor, " count"]:
        """The next words, into a tensor whose words lie side by side; returns it."""
        array = out.numpy()
        self._keystream.fill(array.data.cast("B") if out.numel() else memoryview(b""))
        if sys.byteorder == "big":
            array.byteswap(inplace=True)
        return out
