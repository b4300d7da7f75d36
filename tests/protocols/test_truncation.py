"""Truncation of an opened wire: exact or flagged. Exhaustive on small rings, sampled on the full one.

On n bits a word is held sign-extended in int64, so that arithmetic shifts are those of the small ring and nothing else of the
code under test changes (`flagged` takes n as an argument).

Checked is the argument of `protocols.truncation`, for every y with |y| < 2^l and every r: outside the zone the result is
(y >> f) + carry with carry = [(y mod 2^f) + (r mod 2^f) >= 2^f]; over all r the carry is 1 for a part (y mod 2^f) / 2^f, so it is
unbiased; and 2^(l+1) of the 2^n masks are flagged whatever y is.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy import stats

from protocols.prg import Prg
from protocols.truncation import RING_BITS, flag_probability, flagged, truncate_mask, truncate_public

KEY = bytes(range(32))
SMALL, LARGER = 12, 16


def wrapped(words, bits):
    """Into the ring of so many bits, as a signed number."""
    return ((words + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1))


def whole_ring(bits):
    return torch.arange(-(1 << (bits - 1)), 1 << (bits - 1))


def zone(magnitude_bits, bits, flag=flagged):
    """Which words of the ring are flagged, asked of `flagged` for each alone; by word, from the lowest."""
    return torch.tensor([flag(word, magnitude_bits, bits) for word in whole_ring(bits).split(1)])


@dataclass
class Census:
    """What every y and every r of a ring gave."""

    silent: int = 0  # wrong, and not flagged
    caught: int = 0  # wrong, and flagged
    flags: set[int] = field(default_factory=set)  # flagged masks of one y: one number if it is the same for all
    biased: int = 0  # pairs of y and shift whose carry is not y0 / 2^f of all masks


def census(bits, magnitude_bits, shifts, *, flag=flagged, shifted_mask=truncate_mask):
    masks, found = whole_ring(bits), Census()
    in_zone = zone(magnitude_bits, bits, flag)
    for y in range(1 - (1 << magnitude_bits), 1 << magnitude_bits):
        opened = wrapped(masks + y, bits)
        flags = in_zone[opened + (1 << (bits - 1))]
        found.flags.add(int(flags.sum()))
        for shift in shifts:
            low = y % (1 << shift)
            carry = (low + masks % (1 << shift) >= 1 << shift).long()
            result = wrapped(truncate_public(opened.clone(), shift) - shifted_mask(masks, shift), bits)
            exact = result == (y >> shift) + carry
            found.silent += int((~exact & ~flags).sum())
            found.caught += int((~exact & flags).sum())
            found.biased += int(carry.sum()) << shift != low << bits
    return found


LARGE = [pytest.param(bits, marks=pytest.mark.slow) for bits in (9, SMALL - 2)]


@pytest.mark.parametrize("magnitude_bits", [0, 1, 4, 7, *LARGE])
def test_every_value_and_mask_of_a_small_ring(magnitude_bits):
    found = census(SMALL, magnitude_bits, range(SMALL))
    assert (found.silent, found.biased) == (0, 0)
    assert found.flags == {2 << magnitude_bits}  # of 2^12 masks: the probability 2^(l+1-n), for every y
    assert (found.caught > 0) == (magnitude_bits > 0)  # only y = 0 never wraps


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("magnitude_bits", [9, 11])
def test_every_value_and_mask_of_a_larger_ring(magnitude_bits):
    found = census(LARGER, magnitude_bits, (1, 5, 8, 12))
    assert (found.silent, found.biased, found.flags) == (0, 0, {2 << magnitude_bits})
    assert found.caught > 0


TWINS = {
    "logical shifts of the mask": {"shifted_mask": lambda mask, shift: (mask % (1 << SMALL)) >> shift},
    "a mask rounded towards zero": {"shifted_mask": lambda mask, shift: torch.div(mask, 1 << shift, rounding_mode="trunc")},
    "a zone at the top alone": {"flag": lambda word, bits, n: int(word) >= (1 << (n - 1)) - (1 << bits)},
    "values beyond the bound": {"flag": lambda word, bits, n: flagged(word, bits - 1, n)},
    "no flags": {"flag": lambda word, bits, n: False},
}


@pytest.mark.parametrize("twin", TWINS)
def test_the_census_finds_what_breaks_the_argument(twin):
    assert census(SMALL, 7, (4,), **TWINS[twin]).silent > 0


@pytest.mark.parametrize("magnitude_bits", range(SMALL - 1))
def test_the_zone_is_as_small_as_it_can_be(magnitude_bits):
    """Every flagged word but those on the edges can be wrong for some y within the bound: no smaller zone would do."""
    bound, half = 1 << magnitude_bits, 1 << (SMALL - 1)
    opened = whole_ring(SMALL)
    spoilt = torch.zeros(len(opened), dtype=torch.bool)
    for y in range(-bound + 1, bound):
        mask = wrapped(opened - y, SMALL)
        spoilt |= opened != mask + y
    in_zone = zone(magnitude_bits, SMALL)
    assert not (spoilt & ~in_zone).any()
    assert set(opened[in_zone & ~spoilt].tolist()) <= {half - bound, -half + bound - 1}


@pytest.mark.slow
def test_the_probability_of_a_flag_is_that_of_the_ring():
    for magnitude_bits in range(SMALL - 1):
        count = int(zone(magnitude_bits, SMALL).sum())
        assert count / 2**SMALL == 2.0 ** (magnitude_bits + 1 - SMALL)
    assert flag_probability(34, 1) == 2.0 ** (35 - RING_BITS)
    assert flag_probability(34, 1 << 20) == 2.0 ** (55 - RING_BITS)


@pytest.mark.parametrize("magnitude_bits", [0, 30, 62])
def test_the_edges_of_the_zone_on_the_full_ring(magnitude_bits):
    bound = 1 << magnitude_bits
    top, bottom = (1 << 63) - bound, -(1 << 63) + bound
    for word, expected in ((top, True), (top - 1, False), (bottom - 1, True), (bottom, False), ((1 << 63) - 1, True)):
        assert flagged(torch.tensor([word]), magnitude_bits) is expected, word
        assert flagged(torch.tensor([[0, word], [7, -5]]), magnitude_bits) is expected


def test_nothing_opened_is_nothing_flagged():
    assert flagged(torch.empty(0, dtype=torch.int64), 62) is False


def test_without_a_shift_nothing_changes():
    words = Prg(KEY).words(0, 0, (100,))
    assert torch.equal(truncate_public(words.clone(), 0), words)
    assert torch.equal(truncate_mask(words, 0), words)


def test_the_dealers_mask_is_left_as_it_is():
    words = Prg(KEY).words(0, 0, (100,))
    truncate_mask(words, 12)
    assert torch.equal(words, Prg(KEY).words(0, 0, (100,)))


# --- the full ring ---

CHUNK = 1 << 22
ELEMENTS = 10**8


def near(magnitude_bits, count, part):
    """Values of every size up to the bound, both signs: uniform ones, small ones, and the very largest."""
    words = Prg(KEY).words(part, 0, (count,))
    bound = 1 << magnitude_bits
    sizes = torch.arange(count) % (magnitude_bits + 1)
    values = words >> (63 - sizes)  # |y| <= 2^size, of every size
    extremes = torch.tensor([bound - 1, -bound + 1, bound - 2, 0, -1, 1, bound >> 1, -(bound >> 1)])
    values[: len(extremes) * 1000] = extremes.repeat(1000)
    return values.clamp(-bound + 1, bound - 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("magnitude_bits", "shift"), [(34, 12), (42, 26), (55, 16)])
def test_a_hundred_million_elements_of_the_full_ring(magnitude_bits, shift):
    """Exact, carry and all, or flagged. The count of flags is binomial; the level is 1e-6 (fixed key: deterministic)."""
    flags = carries = done = 0
    expected_carries = variance = 0.0
    part = 1
    while done < ELEMENTS:
        count = min(CHUNK, ELEMENTS - done)
        y, r = near(magnitude_bits, count, part), Prg(KEY).words(part, 1, (count,))
        # a tenth of the masks lies at the ends of the ring, where a sum may wrap; those are not counted as flags below
        forced = count // 10
        r[:forced] = wrapped_to_ends(r[:forced], magnitude_bits)
        opened = y + r
        edge = 1 << 63
        in_zone = (opened >= edge - (1 << magnitude_bits)) | (opened < -edge + (1 << magnitude_bits))
        assert bool(in_zone.any()) == flagged(opened, magnitude_bits)
        low = y & ((1 << shift) - 1)
        carry = (low + (r & ((1 << shift) - 1))) >> shift
        exact = truncate_public(opened, shift) - truncate_mask(r, shift) == (y >> shift) + carry
        assert bool((exact | in_zone).all())
        assert not bool(exact[:forced].all())  # wraps do occur there, and are flagged
        flags += int(in_zone[forced:].sum())
        carries += int(carry[forced:].sum())
        odds = low[forced:].double() / (1 << shift)
        expected_carries += float(odds.sum())
        variance += float((odds * (1 - odds)).sum())
        done += count
        part += 1
    natural = done - sum(min(CHUNK, ELEMENTS - start) // 10 for start in range(0, ELEMENTS, CHUNK))
    rate = 2.0 ** (magnitude_bits + 1 - RING_BITS)
    assert stats.binomtest(flags, natural, rate).pvalue > 1e-6
    assert 2 * stats.norm.sf(abs(carries - expected_carries) / variance**0.5) > 1e-6


def wrapped_to_ends(masks, magnitude_bits):
    """Masks within the zone's width of either end of the ring."""
    width = (1 << (magnitude_bits + 1)) - 1
    return torch.where(masks >= 0, (1 << 63) - 1 - (masks & width), -(1 << 63) + (masks & width))


def test_numpy_agrees_on_what_an_arithmetic_shift_is():
    """The proof needs floor division by 2^f of negative numbers."""
    words = Prg(KEY).words(9, 0, (1000,))
    assert torch.equal(truncate_mask(words, 13), torch.from_numpy(np.floor_divide(words.numpy(), 1 << 13)))
