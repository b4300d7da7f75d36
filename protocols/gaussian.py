"""Gaussian noise from a keyed stream, the same bits on every machine.

Each 64-bit word of the stream is one variate: the top bit is the sign, the other 63 bits t are the tail probability
p = (t + 1/2) / 2^64, and the variate is sign * Phi^-1(1 - p). The half keeps p off 0 and 1/2, so no word is special:
t = 0 gives 9.1553, t = 2^63 - 1 gives 6.8e-20. Assumes the words are uniform (`protocols.prg`).

Source: M. J. Wichura, Algorithm AS 241: the percentage points of the normal distribution, Applied Statistics 37 (1988),
477-484, routine PPND16 (relative accuracy about 1e-16); the split of ln 2 is fdlibm's (e_log.c, Sun Microsystems, 1993).

Why the bits agree everywhere: server, client and edge must subtract exactly what was added. So the only operations are those
that IEEE 754-2008 rounds correctly (+ - * / sqrt and rounding to integer, clauses 5.3 and 5.4; default rounding), each
one numpy float64 ufunc whose result goes to memory, so nothing is contracted to a fused multiply-add. The C library's log
is not correctly rounded, hence `_minus_log`. No value is subnormal, so flushing them to zero changes nothing.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from protocols.errors import EncodingRangeError
from protocols.fixed_point import FRAC_BITS
from protocols.prg import Prg

MAX_DEVIATE: Final = 9.2  # |Phi^-1| of the smallest tail, 2^-65, is 9.1553; rounded up
SIGMA_LIMIT: Final = float(1 << 16)  # a variate then stays below 2^20, the encoding limit: exact in float64, far from wrapping

_Doubles = NDArray[np.float64]
_TAIL_MASK: Final = (1 << 63) - 1
_BLOCK_WORDS: Final = 1 << 14  # the dozen temporaries of a block stay in the second-level cache

_LN2_HIGH: Final = 6.93147180369123816490e-01  # 32 significant bits: its product with an exponent up to 65 is exact
_LN2_LOW: Final = 1.90821492927058770002e-10
_SQRT2: Final = 1.4142135623730951
# |s| <= 0.1716: the first term left out is below 2^-65 of the sum
_ATANH_SERIES: Final = tuple(2.0 / k for k in range(23, 0, -2))

# Highest power first. The published check sums of the mantissas are in the test.
_CENTRE_SPLIT: Final = 0.425
_CENTRE_SHIFT: Final = 0.180625
_A: Final = (
    2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
    1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0,
)  # fmt: skip
_B: Final = (
    5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
    5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0,
)  # fmt: skip
_MIDDLE_SHIFT: Final = 1.6
_C: Final = (
    7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
    3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0,
)  # fmt: skip
_D: Final = (
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0,
)  # fmt: skip
_FAR_SPLIT: Final = 5.0
_E: Final = (
    2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
    2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0,
)  # fmt: skip
_F: Final = (
    2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
    1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0,
)  # fmt: skip


def gaussian_noise(prg: Prg, label: int, kind: int, shape: tuple[int, ...], sigma: float) -> Int64[Tensor, "..."]:
    """Independent Gaussian variates of standard deviation sigma from the stream (label, kind), one word each.

    sigma: in the unit of the image. Result: Z_{2^64}, 16 fractional bits, rounded to the grid of 2^-16 with ties to even.
    Raises EncodingRangeError: sigma is NaN, not above 0, or above 2^16.
    """
    if not 0.0 < sigma <= SIGMA_LIMIT:
        raise EncodingRangeError(f"the standard deviation {sigma:g} of the noise is outside (0, {SIGMA_LIMIT:g}]")
    scale = sigma * float(1 << FRAC_BITS)
    words = prg.words(label, kind, shape).numpy().reshape(-1)
    out = np.empty(words.shape, dtype=np.int64)
    for start in range(0, words.size, _BLOCK_WORDS):
        block = slice(start, start + _BLOCK_WORDS)
        out[block] = np.rint(np.multiply(_deviates(words[block]), scale)).astype(np.int64)
    return torch.from_numpy(out).view(shape)


def normal_deviates(words: Int64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """The standard normal variate that each word stands for; uniform words give N(0, 1)."""
    return torch.from_numpy(_deviates(words.numpy().reshape(-1))).view(words.shape)


def _deviates(words: NDArray[np.int64]) -> _Doubles:
    """Evaluate sign * Phi^-1(1 - p) by the three rational approximations of PPND16."""
    tail = np.bitwise_and(words, _TAIL_MASK)
    # 1/2 - p from the integers, not from p: no cancellation near the median
    centre = np.multiply(_odd(np.subtract(_TAIL_MASK, tail)), 2.0**-65)
    out = np.multiply(centre, _ratio(np.subtract(_CENTRE_SHIFT, np.multiply(centre, centre)), _A, _B))
    outer = np.flatnonzero(centre > _CENTRE_SPLIT)
    root = np.sqrt(_minus_log(_odd(tail[outer])))
    values = _ratio(np.subtract(root, _MIDDLE_SHIFT), _C, _D)
    far = np.flatnonzero(root > _FAR_SPLIT)
    values[far] = _ratio(np.subtract(root[far], _FAR_SPLIT), _E, _F)
    out[outer] = values
    return np.where(words < 0, np.negative(out), out)


def _odd(k: NDArray[np.int64]) -> _Doubles:
    """Convert 2k + 1 for 0 <= k < 2^63, rounded once: both halves are exact, and only their sum rounds."""
    high = np.right_shift(k, 31).astype(np.float64)
    low = np.bitwise_and(k, (1 << 31) - 1).astype(np.float64)
    return np.add(np.multiply(high, 2.0**32), np.add(np.multiply(low, 2.0), 1.0))


def _minus_log(odd: _Doubles) -> _Doubles:
    """Evaluate -ln(odd / 2^65) for 1 <= odd <= 2^64: exponent from the bits, ln of the mantissa as 2 artanh((m-1)/(m+1))."""
    bits = odd.view(np.int64)
    exponent = np.subtract(np.right_shift(bits, 52), 1023).astype(np.float64)
    mantissa = np.bitwise_or(np.bitwise_and(bits, (1 << 52) - 1), 1023 << 52).view(np.float64)
    large = mantissa > _SQRT2
    mantissa = np.where(large, np.multiply(mantissa, 0.5), mantissa)
    below = np.subtract(np.where(large, 64.0, 65.0), exponent)
    s = np.divide(np.subtract(mantissa, 1.0), np.add(mantissa, 1.0))
    log_mantissa = np.multiply(s, _polynomial(np.multiply(s, s), _ATANH_SERIES))
    return np.add(np.multiply(below, _LN2_HIGH), np.subtract(np.multiply(below, _LN2_LOW), log_mantissa))


def _ratio(x: _Doubles, above: Sequence[float], below: Sequence[float]) -> _Doubles:
    return np.divide(_polynomial(x, above), _polynomial(x, below))


def _polynomial(x: _Doubles, coefficients: Sequence[float]) -> _Doubles:
    """Horner's rule, one rounding for each multiplication and each addition."""
    out = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        np.multiply(out, x, out=out)
        np.add(out, coefficient, out=out)
    return out
