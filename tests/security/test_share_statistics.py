"""The metrics on bytes whose law is known: uniform ones pass at the stated rate, structured ones do not."""

import math

import numpy as np
import pytest
import torch

from security.share_statistics import (
    DIRECTIONS,
    adjacent_correlation,
    byte_planes,
    eight_bit,
    entropy,
    histogram,
    likeness,
    miller_madow,
    npcr,
    npcr_critical,
    one_image_tests,
    two_image_tests,
    uaci,
    uaci_critical,
    uniform_likeness,
)

SHAPE = (64, 64)
LEVEL = 0.05
RUNS = 400
# A binomial count with mean 20 and deviation 4.4: six deviations are beyond 1e-8 a test; the seed is fixed all the same.
MOST = LEVEL * RUNS + 6.0 * math.sqrt(LEVEL * (1 - LEVEL) * RUNS)
LEAST = max(1.0, LEVEL * RUNS - 4.0 * math.sqrt(LEVEL * (1 - LEVEL) * RUNS))


def uniform(generator: np.random.Generator) -> np.ndarray:
    return generator.integers(0, 256, SHAPE, dtype=np.uint8)


def test_uniform_bytes_are_refused_at_the_stated_rate():
    generator = np.random.default_rng(3)
    refused: dict[str, int] = {}
    for _ in range(RUNS):
        first, second = uniform(generator), uniform(generator)
        for name, metric in (one_image_tests(first) | two_image_tests(first, second)).items():
            refused[name] = refused.get(name, 0) + (metric.p < LEVEL)
    assert set(refused) == {"histogram", "entropy", "NPCR", "UACI", *(f"{direction} neighbours" for direction in DIRECTIONS)}
    for name, count in refused.items():
        # the entropy's law is for large samples: at 16 bytes a bin it refuses up to twice as often as stated
        most = 2 * MOST if name == "entropy" else MOST
        assert LEAST <= count <= most, f"{name}: {count} of {RUNS}"


def test_a_constant_plane_fails_everything():
    plane = np.full(SHAPE, 17, dtype=np.uint8)
    assert all(metric.p < 1e-12 for metric in (one_image_tests(plane) | two_image_tests(plane, plane)).values())


def test_a_ramp_is_flat_in_its_histogram_but_not_in_its_neighbours():
    plane = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    assert histogram(plane).value == 0.0
    assert entropy(plane).value == pytest.approx(8.0)
    assert adjacent_correlation(plane, "horizontal").p < 1e-12
    assert adjacent_correlation(plane, "vertical").value == pytest.approx(1.0)


def test_entropy_of_a_finite_sample_is_corrected():
    generator = np.random.default_rng(5)
    found = [(entropy(plane).value, miller_madow(plane)) for plane in (uniform(generator) for _ in range(200))]
    raw, corrected = (float(np.mean(column)) for column in zip(*found, strict=True))
    assert raw == pytest.approx(entropy(uniform(generator)).expected, abs=2e-3)
    assert raw < 7.96
    assert corrected == pytest.approx(8.0, abs=2e-3)


# Wu, Noonan and Agaian 2011, tables of critical values, per cent, for alpha 0.05, 0.01, 0.001
@pytest.mark.parametrize(
    ("side", "alpha", "lowest", "low", "high"),
    [
        (256, 0.05, 99.5693, 33.2824, 33.6447),
        (256, 0.01, 99.5527, 33.2255, 33.7016),
        (256, 0.001, 99.5341, 33.1594, 33.7677),
        (512, 0.05, 99.5893, 33.3730, 33.5541),
        (512, 0.01, 99.5810, 33.3445, 33.5826),
        (512, 0.001, 99.5717, 33.3115, 33.6156),
    ],
)
def test_critical_values_are_the_published_ones(side: int, alpha: float, lowest: float, low: float, high: float):
    assert 100 * npcr_critical(side * side, alpha) == pytest.approx(lowest, abs=1e-4)
    assert tuple(100 * limit for limit in uaci_critical(side * side, alpha)) == pytest.approx((low, high), abs=1.1e-4)


def test_npcr_and_uaci_of_known_pairs():
    first = np.zeros(SHAPE, dtype=np.uint8)
    second = first.copy()
    second[0, 0] = 255
    assert npcr(first, second).value == pytest.approx(1 / first.size)
    assert uaci(first, second).value == pytest.approx(1 / first.size)
    assert uaci(first, np.full(SHAPE, 255, dtype=np.uint8)).value == 1.0


def test_byte_planes_are_little_endian():
    words = torch.tensor([[0x0102030405060708, -1]])
    assert [int(plane[0, 0]) for plane in byte_planes(words)] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert {int(plane[0, 1]) for plane in byte_planes(words)} == {255}


def test_likeness_knows_the_original_from_uniform_bytes():
    original = eight_bit(torch.linspace(0, 1, 64 * 64, dtype=torch.float64).view(64, 64))
    law = uniform_likeness(original, 30)
    fresh = law.judge(likeness(original, uniform(np.random.default_rng(9))))
    assert all(metric.p > 1e-4 for metric in fresh.values())
    nearly = original.copy()
    nearly[0, 0] ^= 1
    assert all(metric.p < 1e-9 for metric in law.judge(likeness(original, nearly)).values())
