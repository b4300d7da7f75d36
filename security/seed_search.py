"""Find a generator's 32-bit seed from masks that are known up to the size of a pixel.

An opening is `x - a`. Pixels are below 2^18 in the ring, so the opening shows the upper 46 bits of every mask word. A candidate
seed is kept if the first word's high half fits, and then checked against every word: a wrong one passes with a probability
below 2^-45 per word, so what is left is the seed. Run by an attacker, in security/ only.
"""

import secrets
from dataclasses import dataclass
from time import process_time
from typing import Final

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from security.mersenne_twister import SEED_BITS, high_halves, ring_elements

SPACE: Final = 1 << SEED_BITS
BLOCK: Final = 1 << 16  # candidates in step: their state stays in the second-level cache
PIXEL_SLACK: Final = 1 << 18  # a wire at 16 fractional bits, |x| < 4
CONFIRMED_WORDS: Final = 64  # 64 words of at least 45 bits: far beyond chance


@dataclass(frozen=True)
class Window:
    """`count` successive seeds, modulo 2^32."""

    start: int
    count: int

    @classmethod
    def around(cls, seed: int, count: int) -> "Window":
        """A window that holds `seed` at a place drawn at random, so that where it lies does not tell."""
        return cls((seed - secrets.randbelow(count)) % SPACE, count)


@dataclass(frozen=True)
class Search:
    """What a search found, and what it cost on one core."""

    seeds: tuple[int, ...]
    tested: int
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Candidates per second."""
        return self.tested / self.cpu_seconds

    @property
    def whole_space_seconds(self) -> float:
        """Extrapolated: all 2^32 candidates at the measured rate, on one core."""
        return SPACE / self.rate


def search(masks: Int64[Tensor, "..."], window: Window, *, slack: int = PIXEL_SLACK, word: int = 0) -> Search:
    """All seeds of the window whose ring elements, from number `word` on, are `masks` up to `slack`."""
    known = masks.flatten()[:CONFIRMED_WORDS]
    shifted = int(known[0]) + (1 << 63)
    bounds = np.array([(shifted - slack) >> 32, (shifted + slack) >> 32]) % SPACE
    low, width = np.uint32(bounds[0]), np.uint32((bounds[1] - bounds[0]) % SPACE)
    found: list[int] = []
    started = process_time()
    for offset in range(0, window.count, BLOCK):
        size = min(BLOCK, window.count - offset)
        seeds = ((window.start + offset + np.arange(size, dtype=np.uint64)) % SPACE).astype(np.uint32)
        fits = high_halves(seeds, word) - low <= width
        found += [int(seed) for seed in seeds[fits] if _confirmed(int(seed), known, slack, word)]
    return Search(tuple(found), window.count, process_time() - started)


def _confirmed(seed: int, known: Int64[Tensor, " n"], slack: int, word: int) -> bool:
    drawn = ring_elements(seed, (word + known.numel(),))[word:]
    return bool(((drawn - known).abs() <= slack).all())
