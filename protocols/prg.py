"""Pseudorandom streams over Z_{2^64}: AES-256 in counter mode, keyed by HKDF-SHA256.

Assumes AES-256 is a pseudorandom function and keys come from the operating system (`fresh_key`) or from HKDF of
such a key. A stream is addressed by two 32-bit labels, not by a running counter: the same (key, label, kind) is always
the same words, and two labels never overlap (the remaining 64 bits of the counter block count 16-byte blocks).
Source: NIST SP 800-38A section 6.5 (CTR); RFC 5869 (HKDF).
"""

import secrets
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jaxtyping import Int64
from torch import Tensor

from protocols.errors import LocalProtocolError
from protocols.unpicklable import Unpicklable

KEY_BYTES: Final = 32


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
        if not (0 <= label < 1 << 32 and 0 <= kind < 1 << 32):
            raise LocalProtocolError(f"stream label {label} or kind {kind} does not fit 32 bits")
        initial = label.to_bytes(4, "big") + kind.to_bytes(4, "big") + bytes(8)
        encryptor = Cipher(algorithms.AES(self.key), modes.CTR(initial)).encryptor()
        out = bytearray(count + 15)  # update_into wants a spare block
        encryptor.update_into(bytes(count), out)
        del out[count:]
        return out

    def words(self, label: int, kind: int, shape: tuple[int, ...]) -> Int64[Tensor, "..."]:
        """Uniform elements of Z_{2^64}, little-endian words of the stream (label, kind)."""
        count = int(np.prod(shape, dtype=np.int64))
        buffer = self.stream(label, kind, count * 8)
        return torch.from_numpy(np.frombuffer(buffer, dtype="<i8").astype(np.int64, copy=False)).view(shape)
