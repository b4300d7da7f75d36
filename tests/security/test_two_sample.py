import math

import numpy as np
import pytest

from security.two_sample import chi_square, kolmogorov_smirnov, smallest_found_distance, two_sample_tests

RUNS = 400
LEVEL = 0.01


def uniform(generator: np.random.Generator, sessions: int = 40, words: int = 64) -> np.ndarray:
    return generator.integers(-(2**63), 2**63 - 1, (sessions, words), endpoint=True)


def test_under_the_null_each_test_rejects_at_the_stated_rate():
    generator = np.random.default_rng(1)
    counts: dict[str, int] = {}
    for _ in range(RUNS):
        for test in two_sample_tests(uniform(generator), uniform(generator)):
            counts[test.name] = counts.get(test.name, 0) + (test.p_value <= LEVEL)
    assert set(counts) == {*(f"byte {plane}" for plane in range(8)), "order", "place"}
    expected = RUNS * LEVEL
    for name, rejected in counts.items():
        assert rejected <= expected + 5 * math.sqrt(expected), name
    assert counts["order"] <= expected  # a bound, not an exact level
    together = sum(rejected for name, rejected in counts.items() if name.startswith("byte"))
    assert abs(together - 8 * expected) <= 5 * math.sqrt(8 * expected)  # and they do reject


def test_single_bits_keep_the_rate_too():
    generator = np.random.default_rng(2)
    tests = [
        test
        for _ in range(RUNS)
        for test in two_sample_tests(generator.integers(0, 2, (40, 64)), generator.integers(0, 2, (40, 64)), bits=True)
    ]
    rejected = sum(test.p_value <= LEVEL for test in tests)
    assert abs(rejected - LEVEL * len(tests)) <= 5 * math.sqrt(LEVEL * len(tests))


def one_place(words: np.ndarray) -> np.ndarray:
    changed = words.copy()
    changed[:, 9] = np.abs(changed[:, 9])
    return changed


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda words: words & ~np.int64(0xFF), "byte 0"),
        (lambda words: words >> 8, "order"),
        (one_place, "place"),
    ],
    ids=["a byte is zero", "small words", "one place has another mean"],
)
def test_a_planted_difference_is_found(change, name):
    generator = np.random.default_rng(3)
    tests = two_sample_tests(change(uniform(generator, 400)), uniform(generator, 400))
    assert {test.name: test.p_value for test in tests}[name] < 1e-9


def test_the_bound_of_the_order_test_is_the_published_one():
    left, right = np.arange(1000), np.arange(1000) + 500
    assert kolmogorov_smirnov(left, right) == pytest.approx(math.exp(1 - 0.5**2 * 1000))
    assert kolmogorov_smirnov(left, left) == 1.0
    assert math.exp(1 - smallest_found_distance(1000, 1e-9) ** 2 * 1000) == pytest.approx(1e-9)


def test_samples_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="equal sizes"):
        kolmogorov_smirnov(np.arange(3), np.arange(4))


def test_constant_histograms_say_nothing():
    assert chi_square(np.array([5, 0]), np.array([5, 0])) == 1.0
