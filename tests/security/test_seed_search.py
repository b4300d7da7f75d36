"""The search finds a planted seed and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.prg import Prg
from security.mersenne_twister import ring_elements
from security.seed_search import BLOCK, SPACE, Window, search

WINDOW = BLOCK // 8


def masks(seed: int, pixels: torch.Tensor) -> torch.Tensor:
    """What an opening x - a shows of a."""
    return ring_elements(seed, tuple(pixels.shape)) - pixels


@settings(deadline=None, max_examples=10)
@given(st.integers(0, SPACE - 1), st.integers(-(2**16), 2**17))
def test_finds_the_planted_seed(seed: int, pixel: int) -> None:
    pixels = torch.full((4, 4), pixel)
    found = search(masks(seed, pixels), Window.around(seed, WINDOW))
    assert found.seeds == (seed,)
    assert found.tested == WINDOW
    assert found.whole_space_seconds == pytest.approx(SPACE / found.rate)


def test_finds_a_seed_across_blocks_and_the_wrap_of_the_space() -> None:
    seed = 5
    assert search(masks(seed, torch.zeros(4, dtype=torch.int64)), Window(SPACE - BLOCK, 2 * BLOCK)).seeds == (seed,)


@pytest.mark.parametrize("word", [-(2**63), 2**63 - 1, 0, -1])
def test_bounds_wrap_around_the_ring(word: int) -> None:
    # a first word at the ring's ends: nothing may be missed or raise
    assert search(torch.tensor([word, 1, 2, 3]), Window(0, BLOCK // 8)).seeds == ()


def test_a_later_word_is_enough() -> None:
    seed = 0xDEADBEEF
    assert search(ring_elements(seed, (2,))[1:], Window.around(seed, WINDOW), slack=0, word=1).seeds == (seed,)


def test_finds_nothing_outside_the_window_or_in_a_stream_of_ours() -> None:
    seed = 77
    assert search(masks(seed, torch.zeros(4, dtype=torch.int64)), Window(seed + 1, WINDOW)).seeds == ()
    assert search(Prg(bytes(32)).words(0, 0, (64,)), Window(0, WINDOW)).seeds == ()
