"""The vectorised generator against torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from security.mersenne_twister import LAST_WORD, high_halves, ring_elements

SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=25)
@given(st.lists(SEEDS, min_size=1, max_size=4), st.integers(0, LAST_WORD - 1))
def test_high_halves_are_those_of_torch(seeds: list[int], word: int) -> None:
    mine = high_halves(np.array(seeds, dtype=np.uint32), word)
    for seed, high in zip(seeds, mine, strict=True):
        drawn = int(ring_elements(seed, (word + 1,))[word])
        assert int(high) == (drawn + 2**63) >> 32


@given(SEEDS, st.integers(1, 2**31 - 1))
def test_only_the_low_32_bits_of_a_seed_count(low: int, high: int) -> None:
    assert torch.equal(ring_elements(low, (8,)), ring_elements(low + (high << 32), (8,)))


def test_the_first_output_of_the_reference_implementation() -> None:
    # init_genrand(5489), outputs 1 and 2: Matsumoto and Nishimura's mt19937ar, and the C++ standard's default engine
    assert int(high_halves(np.array([5489], dtype=np.uint32))[0]) == 3499211612
    assert int(ring_elements(5489, (1,))[0]) + 2**63 == (3499211612 << 32) + 581869302


def test_a_word_beyond_the_untwisted_state_is_refused() -> None:
    with pytest.raises(ValueError, match="twisted"):
        high_halves(np.zeros(1, dtype=np.uint32), LAST_WORD)
