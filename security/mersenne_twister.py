"""MT19937 as torch seeds it and draws ring elements from it, for many candidate seeds at once.

`torch.Generator.manual_seed` takes 64 bits, and its engine keeps the low 32 of them. A ring element of CrypTen
(`common/rng.py`, `generate_random_ring_element`) is `torch.randint(-2^63, 2^63 - 1)`: two outputs of the engine, high half
first, minus 2^63. So the high half of each of a generator's first hundred ring elements needs only the part of the start state
up to word 2k + 397: a few hundred multiplications for a seed, and all seeds of a block in step.

Source: Matsumoto, Nishimura, Mersenne Twister, ACM TOMACS 8 (1998), 3-30; torch ATen/core/MT19937RNGEngine.h
(`init_with_uint32`, `next_state`), ATen/CPUGeneratorImpl.cpp (`random64`), ATen/core/DistributionsHelper.h.
"""

from typing import Final

import numpy as np
import torch
from jaxtyping import Int64, UInt32
from torch import Tensor

SEED_BITS: Final = 32  # what is left of a 64-bit seed
STATE_WORDS: Final = 624
SHIFT: Final = 397
LAST_WORD: Final = (STATE_WORDS - SHIFT) // 2  # ring elements whose outputs need no twisted word
_MULTIPLIER: Final = np.uint32(1812433253)
_UPPER: Final = np.uint32(0x80000000)
_LOWER: Final = np.uint32(0x7FFFFFFF)
_MATRIX: Final = np.uint32(0x9908B0DF)


def high_halves(seeds: UInt32[np.ndarray, " n"], word: int = 0) -> UInt32[np.ndarray, " n"]:
    """The high 32 bits of ring element number `word` (plus 2^63, as torch adds its lower bound last), for each seed."""
    if not 0 <= word < LAST_WORD:
        raise ValueError(f"ring element {word} needs the twisted state; only the first {LAST_WORD} are computed here")
    first = 2 * word
    state, shifted = seeds.copy(), np.empty_like(seeds)
    kept = {0: seeds}
    for index in range(1, first + SHIFT + 1):
        np.right_shift(state, 30, out=shifted)
        np.bitwise_xor(state, shifted, out=state)
        np.multiply(state, _MULTIPLIER, out=state)
        np.add(state, np.uint32(index), out=state)
        if index in (first, first + 1):
            kept[index] = state.copy()
    joined = (kept[first] & _UPPER) | (kept[first + 1] & _LOWER)
    odd = (joined & np.uint32(1)) * _MATRIX
    return _temper(state ^ (joined >> np.uint32(1)) ^ odd)


def _temper(word: UInt32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    word = word ^ (word >> np.uint32(11))
    word = word ^ ((word << np.uint32(7)) & np.uint32(0x9D2C5680))
    word = word ^ ((word << np.uint32(15)) & np.uint32(0xEFC60000))
    word ^= word >> np.uint32(18)
    return word


def ring_elements(seed: int, shape: tuple[int, ...]) -> Int64[Tensor, "..."]:
    """What CrypTen draws first from a generator with this seed: torch's own, in the words of CrypTen's `common/rng.py`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator, dtype=torch.long)
