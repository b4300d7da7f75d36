"""Keyed Gaussian noise: right distribution, and the same bits everywhere.

Error rate: each statistical test has probability 1e-6 of failing for a correct implementation, over the choice of the
injected keys; with the keys fixed it is deterministic.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from protocols import gaussian
from protocols.errors import DarkroomError, EncodingRangeError, LocalProtocolError
from protocols.gaussian import MAX_DEVIATE, SIGMA_LIMIT, gaussian_noise, normal_deviates
from protocols.prg import Prg, derive_key
from protocols.ring import to_bytes

VECTORS = json.loads((Path(__file__).parent / "vectors" / "gaussian.json").read_text())
HIGH, LOW = 2**63 - 1, -(2**63)
ERROR_RATE = 1e-6
quick = settings(max_examples=200, deadline=None, database=None)
tails = st.integers(0, HIGH) | st.builds(lambda t, shift: t >> shift, st.integers(0, HIGH), st.integers(0, 62))


def stream(name: str) -> Prg:
    return Prg(derive_key(b"test_gaussian", name.encode()))


def deviate(word: int) -> float:
    return float(normal_deviates(torch.tensor([word]))[0])


# ---- the value


def test_agrees_with_scipy():
    words = stream("scipy").words(0, 0, (1 << 16,))
    shifts = torch.arange(1 << 16) % 63
    words = torch.cat([words, (words & HIGH) >> shifts])  # half of them far out in the tails
    tail = ((words & HIGH).numpy().astype(np.longdouble) + 0.5) * np.longdouble(2.0) ** -64
    expected = np.where(words.numpy() < 0, 1.0, -1.0) * special.ndtri(tail.astype(np.float64))
    assert np.abs(normal_deviates(words).numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("vector", VECTORS["deviates"], ids=lambda v: str(v["word"]))
def test_deviate_vector(vector):
    assert deviate(vector["word"]).hex() == vector["deviate"]


def test_many_deviates_bit_for_bit():
    vector = VECTORS["stream"]
    values = normal_deviates(Prg(bytes.fromhex(vector["key"])).words(vector["label"], vector["kind"], (vector["count"],)))
    assert hashlib.sha256(values.numpy().astype("<f8").tobytes()).hexdigest() == vector["sha256"]


def test_coefficients_have_the_published_check_sums():
    def off(published: str, *lists: tuple[float, ...]) -> float:
        total = Decimal(published)
        # printed with one digit before the point; the trailing 1 of a denominator is not in the sum
        digits = [Decimal(repr(c)) for values in lists for c in values if c != 1.0]
        return float(sum(c.scaleb(-c.adjusted()) for c in digits) - total)

    assert abs(off("55.88319288061490144390", gaussian._A, gaussian._B)) < 3e-15
    assert abs(off("49.33206503301610289036", gaussian._C, gaussian._D)) < 3e-15
    assert abs(off("47.52583317549289671629", gaussian._E, gaussian._F)) < 3e-15


@pytest.mark.parametrize(("word", "expected"), [(0, 9.155293772686074), (HIGH, math.sqrt(2 * math.pi) * 2.0**-65)])
def test_extreme_words(word, expected):
    assert deviate(word) == pytest.approx(expected, rel=1e-15)
    assert deviate(word + LOW) == -deviate(word)
    assert abs(deviate(word)) < MAX_DEVIATE


@given(tails)
@quick
def test_the_top_bit_is_the_sign(tail):
    assert deviate(tail) > 0
    assert deviate(tail + LOW) == -deviate(tail)


@given(tails, tails)
@quick
def test_a_smaller_tail_is_a_larger_deviate(first, second):
    small, large = sorted((first, second))
    assert deviate(small) >= deviate(large) * (1 - 4e-16)  # neighbours may swap by one unit in the last place


# ---- the bits


class Rounded:
    """A float64 whose operations are exact rational arithmetic, then one rounding: IEEE 754 by definition, not by hardware."""

    def __init__(self, value: float | Fraction) -> None:
        self.value = Fraction(float(value))  # float(Fraction) rounds to nearest, ties to even

    def __add__(self, other: "Rounded | float") -> "Rounded":
        return Rounded(self.value + exact(other))

    def __sub__(self, other: "Rounded | float") -> "Rounded":
        return Rounded(self.value - exact(other))

    def __mul__(self, other: "Rounded | float") -> "Rounded":
        return Rounded(self.value * exact(other))

    def __truediv__(self, other: "Rounded | float") -> "Rounded":
        return Rounded(self.value / exact(other))

    def sqrt(self) -> "Rounded":
        scaled = self.value * 4**100
        root = math.isqrt(math.floor(scaled))
        return Rounded(Fraction(2 * root + (root * root != scaled), 2 * 2**100))  # the last bit only breaks ties


def exact(value: "Rounded | float") -> Fraction:
    return value.value if isinstance(value, Rounded) else Fraction(value)


def reference(word: int) -> float:
    """The specification of `normal_deviates`, one correctly rounded step after another."""

    def ratio(x: Rounded, above: tuple[float, ...], below: tuple[float, ...]) -> Rounded:
        return horner(x, above) / horner(x, below)

    def horner(x: Rounded, coefficients: tuple[float, ...]) -> Rounded:
        out = Rounded(coefficients[0])
        for coefficient in coefficients[1:]:
            out = out * x + coefficient
        return out

    tail = word & HIGH
    centre = Rounded(Fraction(2 * (HIGH - tail) + 1)) * 2.0**-65
    if centre.value <= Fraction(0.425):
        out = centre * ratio(Rounded(0.180625) - centre * centre, gaussian._A, gaussian._B)
    else:
        odd = Rounded(Fraction(2 * tail + 1))
        mantissa, exponent = math.frexp(float(odd.value))
        mantissa, exponent = 2 * mantissa, exponent - 1
        if mantissa > 1.4142135623730951:
            mantissa, exponent = mantissa / 2, exponent + 1
        s = (Rounded(mantissa) - 1.0) / (Rounded(mantissa) + 1.0)
        log_mantissa = s * horner(s * s, tuple(2 / k for k in range(23, 0, -2)))
        below = Rounded(65.0 - exponent)
        root = (below * 6.93147180369123816490e-01 + (below * 1.90821492927058770002e-10 - log_mantissa)).sqrt()
        far = root.value > 5
        out = ratio(root - 5.0, gaussian._E, gaussian._F) if far else ratio(root - 1.6, gaussian._C, gaussian._D)
    return math.copysign(float(out.value), -1.0 if word < 0 else 1.0)


def test_every_step_is_correctly_rounded():
    words = stream("rounding").words(0, 0, (300,))
    words = torch.cat([words, (words & HIGH) >> (torch.arange(300) % 62), torch.tensor([0, LOW, HIGH, -1, 1, 2**29, 2**28])])
    assert [value.hex() for value in normal_deviates(words).tolist()] == [reference(word).hex() for word in words.tolist()]


def test_noise_vector():
    vector = VECTORS["noise"]
    prg = Prg(bytes.fromhex(vector["key"]))
    words = gaussian_noise(prg, vector["label"], vector["kind"], tuple(vector["shape"]), float.fromhex(vector["sigma"]))
    assert words.flatten()[:8].tolist() == vector["first"]
    assert hashlib.sha256(to_bytes(words)).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("tampered", VECTORS["tampered"], ids=lambda v: v["name"])
def test_tampered_vector_fails_at_the_named_step(tampered):
    vector = VECTORS["noise"] | tampered["change"]
    step, failure = "Prg", None
    try:
        prg = Prg(bytes.fromhex(vector["key"]))
        step = "gaussian_noise"
        words = gaussian_noise(prg, vector["label"], vector["kind"], tuple(vector["shape"]), float.fromhex(vector["sigma"]))
        step = "compare" if hashlib.sha256(to_bytes(words)).hexdigest() != vector["sha256"] else "none"
    except DarkroomError as error:
        failure = type(error)
    assert step == tampered["step"]
    assert failure is {"Prg": LocalProtocolError, "gaussian_noise": EncodingRangeError, "compare": None}[step]


@pytest.mark.slow
def test_the_bits_do_not_depend_on_the_vector_unit():
    """The same vector in a process where numpy may use only its baseline instructions."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not found:
        pytest.skip("this numpy dispatches to nothing beyond its baseline")
    vector = VECTORS["noise"]
    program = (
        "import hashlib; from protocols.gaussian import gaussian_noise;"
        " from protocols.prg import Prg; from protocols.ring import to_bytes;"
        f"print(hashlib.sha256(to_bytes(gaussian_noise(Prg(bytes.fromhex('{vector['key']}')), 1, 1, (64, 64),"
        f" float.fromhex('{vector['sigma']}')))).hexdigest())"
    )
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(found), "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == vector["sha256"]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), ((1 << 14) - 1,), (1 << 14,), ((1 << 14) + 1,), (3, 100, 101)])
def test_blocks_leave_no_seam(shape):
    prg = stream("blocks")
    words = gaussian_noise(prg, 0, 0, shape, 0.1)
    assert tuple(words.shape) == shape
    assert words.dtype == torch.int64
    assert torch.equal(words, torch.round(normal_deviates(prg.words(0, 0, shape)) * (0.1 * 65536)).long())


# ---- the distribution


def test_moments():
    count = 1 << 20
    z = normal_deviates(stream("moments").words(0, 0, (count,))).numpy()
    bound = stats.norm.isf(ERROR_RATE / 8) / math.sqrt(count)
    for power, variance in ((1, 1), (2, 2), (3, 15), (4, 96)):  # Var z^k = E z^2k - (E z^k)^2
        assert abs((z**power).mean() - (0, 1, 0, 3)[power - 1]) < bound * math.sqrt(variance), power
    assert abs((z[1:] * z[:-1]).mean()) < bound


def kolmogorov_p_value(z: torch.Tensor) -> float:
    return float(stats.kstest(z.numpy(), "norm").pvalue)


def test_kolmogorov_smirnov():
    assert kolmogorov_p_value(normal_deviates(stream("ks").words(0, 0, (1 << 18,)))) > ERROR_RATE


@pytest.mark.slow
def test_kolmogorov_smirnov_finds_small_errors():
    z = normal_deviates(stream("ks").words(0, 0, (1 << 18,)))
    assert kolmogorov_p_value(z * 1.04) < ERROR_RATE
    assert kolmogorov_p_value(z + 0.02) < ERROR_RATE
    assert kolmogorov_p_value(z.abs()) < ERROR_RATE


def test_tails_are_as_heavy_as_they_should_be():
    z = normal_deviates(stream("tails").words(0, 0, (1 << 20,))).abs()
    for limit in (3.0, 4.0):
        expected = 2 * stats.norm.sf(limit)
        low, high = stats.binom.interval(1 - ERROR_RATE, 1 << 20, expected)
        assert low <= int((z > limit).sum()) <= high


@pytest.mark.parametrize("sigma", [2.0**-12, 25 / 255, 1.0, SIGMA_LIMIT])
def test_sigma_is_the_standard_deviation_on_the_grid(sigma):
    count = 1 << 16
    words = gaussian_noise(stream("sigma"), 0, 0, (count,), sigma).double() / 65536
    expected = math.sqrt(sigma**2 + 2.0**-32 / 12)  # rounding adds a uniform error
    assert float(words.std()) == pytest.approx(expected, rel=stats.norm.isf(ERROR_RATE / 2) / math.sqrt(2 * count))
    assert float(words.abs().max()) <= MAX_DEVIATE * sigma + 2.0**-17
