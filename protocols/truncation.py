"""Truncation of an opened wire, exact or flagged (DESIGN section 6).

y is a wire before truncation, |y| < 2^l as an integer; r is uniform in Z_{2^n}, unknown to each server alone; both servers open
c = y + r mod 2^n, read as a signed number in [-2^(n-1), 2^(n-1)). The dealer, who knows r, shares r >> f. Then with arithmetic
shifts

    (c >> f) - (r >> f)  =  (y >> f) + carry,      carry in {0, 1},

where carry = 1 exactly when (y mod 2^f) + (r mod 2^f) >= 2^f. Proof: without wrap-around c = y + r over the integers; write
y = 2^f y1 + y0 and r = 2^f r1 + r0 with 0 <= y0, r0 < 2^f; then c >> f = y1 + r1 + [y0 + r0 >= 2^f]. Since r0 is uniform, the
carry is 1 with probability y0/2^f: rounding is unbiased. The result is therefore y/2^f up to less than one unit.

Wrap-around: y + r leaves [-2^(n-1), 2^(n-1)) upwards only if r >= 2^(n-1) - 2^l, and then c < -2^(n-1) + 2^l; downwards only if
c >= 2^(n-1) - 2^l. So outside the zone

    c >= 2^(n-1) - 2^l   or   c < -2^(n-1) + 2^l

the result is exact in the sense above. Inside it may be wrong by 2^(n-f), and that is the flag. Both servers compute it from the
same opened c. c is uniform whatever y is, so a flag has probability 2^(l+1-n) for every input and says nothing about it; a retry
draws fresh material. A simulator draws c uniformly, flags included.

Beyond |y| < 2^l the argument does not hold and errors are silent: bounds are measured, with a margin (network.WireRange).
"""

from typing import Final

from jaxtyping import Int64
from torch import Tensor

RING_BITS: Final = 64


def truncate_public(opened: Int64[Tensor, "*shape"], shift: int) -> Int64[Tensor, "*shape"]:
    """C >> f: the public part of the truncated wire. In place; run by both servers."""
    return opened.bitwise_right_shift_(shift) if shift else opened


def truncate_mask(mask: Int64[Tensor, "*shape"], shift: int) -> Int64[Tensor, "*shape"]:
    """R >> f: the truncated wire's mask. Run by the dealer."""
    return mask >> shift if shift else mask


def flagged(opened: Int64[Tensor, "*shape"], magnitude_bits: int, ring_bits: int = RING_BITS) -> bool:
    """Whether any element of c lies in the zone, where truncation may have gone wrong. Public: a function of c alone.

    magnitude_bits: l. ring_bits: n, below 64 for exhaustive tests; the words are then n-bit numbers, sign-extended.
    """
    if not opened.numel():
        return False
    low, high = opened.aminmax()
    edge, zone = 1 << (ring_bits - 1), 1 << magnitude_bits
    return int(high) >= edge - zone or int(low) < -edge + zone


def flag_probability(magnitude_bits: int, elements: int) -> float:
    """Expected number of flagged elements; for small values the probability that one evaluation must be repeated."""
    return float(elements) * 2.0 ** (magnitude_bits + 1 - RING_BITS)
