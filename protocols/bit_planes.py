"""Bits of ring words, packed: plane b holds bit b of every word, 64 words to an int64. XOR and AND act on 64 words at once."""

from typing import Final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

PLANE_BITS: Final = 64


def plane_words(count: int) -> int:
    """Packed words of one plane of `count` bits; the last is filled up with zeros."""
    return -(-count // PLANE_BITS)


def bit_planes(words: Int64[Tensor, "..."], planes: int) -> Int64[Tensor, "planes packed"]:
    """The lowest `planes` bits of each word, in row-major order."""
    flat = words.contiguous().view(-1).numpy()
    octets = flat.view(np.uint8).reshape(-1, 8)  # little-endian machines only, as all that torch runs on
    out = np.zeros((planes, plane_words(flat.size) * 8), dtype=np.uint8)
    used = -(-flat.size // 8)
    for octet in range(-(-planes // 8)):
        column = np.ascontiguousarray(octets[:, octet])
        for bit in range(min(8, planes - 8 * octet)):
            out[8 * octet + bit, :used] = np.packbits(column & (1 << bit), bitorder="little")
    return torch.from_numpy(out.view(np.int64))


def unpacked(plane: Int64[Tensor, " packed"], count: int) -> UInt8[Tensor, " count"]:
    """The bits of one plane, a byte each."""
    return torch.from_numpy(np.unpackbits(plane.contiguous().numpy().view(np.uint8), count=count, bitorder="little"))
