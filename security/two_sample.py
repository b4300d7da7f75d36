"""Two-sample tests on ring words: whether one image gives other words than another.

The hypothesis that a test may reject is that all words are independent and uniform, whatever the image. Then
- *byte planes*: Pearson's chi-square of homogeneity for each of the 8 bytes of a word. Asymptotic; bytes are cut to nibbles
where a
  cell would expect fewer than 20.
- *order*: Kolmogorov-Smirnov over words as integers, with P(D > d) <= e exp(-2 d^2 n/2) for n words a side: a bound for every n
  (F. Wei and R. M. Dudley, Two-sample Dvoretzky-Kiefer-Wolfowitz inequalities, Statistics & Probability Letters 82 (2012),
  636-644).
- *place*: the mean word at every position, over the sessions. A mean of n uniforms has variance 1/(12 n), so the squared
differences add
  up to a chi-square. Asymptotic in the sessions; a uniform's mean has lighter tails than a normal's, so on the safe side.
Small p-values are Bonferroni-corrected by the caller. Sources: K. Pearson 1900; O. J. Dunn 1961 (Bonferroni).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CELL: Final = 20.0  # expected count of a chi-square cell, at least
WORD_BYTES: Final = 8

Words = NDArray[np.int64]  # [session, word]


@dataclass(frozen=True)
class Test:
    """One test that was made."""

    name: str
    p_value: float


def two_sample_tests(first: Words, second: Words, *, bits: bool = False) -> list[Test]:
    """All tests on the words of two images, as many sessions of each as both have.

    bits: the words are single bits, uniform on {0, 1}. Fewer than two sessions a side give no test of place.
    """
    sessions = min(len(first), len(second))
    first, second = first[:sessions], second[:sessions]
    tests = [Test(f"byte {plane}", p) for plane in range(1 if bits else WORD_BYTES) if (p := _plane(first, second, plane)) < 2.0]
    if not bits:
        tests.append(Test("order", kolmogorov_smirnov(first.ravel(), second.ravel())))
    if sessions >= 2:
        tests.append(Test("place", _place(first, second, bits)))
    return tests


def _plane(first: Words, second: Words, plane: int) -> float:
    """p-value of one byte plane."""
    planes = [np.ascontiguousarray(words).view(np.uint8).reshape(-1, WORD_BYTES)[:, plane] for words in (first, second)]
    counts = [np.bincount(values, minlength=256) for values in planes]
    if len(planes[0]) / 256 < CELL:
        counts = [count.reshape(16, 16).sum(axis=0) for count in counts]  # the low nibble
    return chi_square(counts[0], counts[1])


def chi_square(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """p-value that two histograms with equal totals are of one distribution. Empty cells do not count."""
    total = first + second
    used = total > 0
    if int(used.sum()) < 2:
        return 1.0
    statistic = float((np.square(first - second)[used] / total[used]).sum())
    return float(stats.chi2.sf(statistic, int(used.sum()) - 1))


def kolmogorov_smirnov(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """A bound on the p-value that two samples of one size are of one distribution."""
    if len(first) != len(second):
        raise ValueError(f"samples of {len(first)} and {len(second)}: the bound is for equal sizes")
    merged = np.sort(np.concatenate([first, second]))
    places = [np.searchsorted(np.sort(sample), merged, side="right") for sample in (first, second)]
    distance = float(np.abs(places[0] - places[1]).max()) / len(first)
    return min(1.0, math.exp(1.0 - distance * distance * len(first)))


def smallest_found_distance(words: int, level: float) -> float:
    """The Kolmogorov-Smirnov distance between two samples of so many words each that a test at this level rejects."""
    return math.sqrt((1.0 - math.log(level)) / words)


def _place(first: Words, second: Words, bits: bool) -> float:
    unit = 1.0 if bits else 2.0**-64
    variance = 0.25 if bits else 1.0 / 12.0
    means = [words.mean(axis=0, dtype=np.float64) * unit for words in (first, second)]
    scale = variance * 2.0 / len(first)
    statistic = float(np.square(means[0] - means[1]).sum() / scale)
    return float(stats.chi2.sf(statistic, first.shape[1]))
