"""Each kind of noise has the level that is stated, and what a network is told is what the module says."""

import numpy as np
import pytest
import torch

from client.noise_level import estimate_sigma, white_sigma
from training.noise import NoiseSettings, add_noise, correlated, covering_gain, estimator_gain, poisson_gaussian

SIDE = 256  # 65,536 values: the standard error of a deviation is 0.3 %


def test_white_noise_has_its_level_and_the_network_is_told_it() -> None:
    clean = np.full((SIDE, SIDE), 0.5, np.float32)
    noisy, told = add_noise(clean, 0.1, NoiseSettings(), np.random.default_rng(1))
    assert told == 0.1
    assert float((noisy - clean).std()) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_counts_make_bright_pixels_noisier_by_as_much_as_they_are_brighter(share: float) -> None:
    clean = np.full((SIDE, SIDE), 0.2, np.float32)
    clean[: SIDE // 2] = 0.6
    noise = poisson_gaussian(clean, 0.1, share, np.random.default_rng(1)) - clean
    assert float(np.sqrt((noise**2).mean())) == pytest.approx(0.1, rel=0.02)
    bright, dark = float(noise[: SIDE // 2].var()), float(noise[SIDE // 2 :].var())
    assert bright / dark == pytest.approx((1 - share + share * 1.5) / (1 - share + share * 0.5), rel=0.05)


def test_a_patch_without_signal_has_gaussian_noise() -> None:
    clean = np.zeros((SIDE, SIDE), np.float32)
    assert float(poisson_gaussian(clean, 0.1, 1.0, np.random.default_rng(1)).std()) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("neighbour", [0.0, 0.1, 0.2])
def test_correlated_noise_has_variance_1_and_deceives_the_estimate_as_stated(neighbour: float) -> None:
    noise = correlated((SIDE, SIDE), neighbour, np.random.default_rng(1))
    assert float(noise.std()) == pytest.approx(1, rel=0.03)
    assert float((noise[1:] * noise[:-1]).mean()) == pytest.approx(2 * neighbour / (1 + 2 * neighbour**2), abs=0.03)
    pixels = torch.from_numpy(noise.astype(np.float64)) + 5.0
    assert white_sigma(pixels) == pytest.approx(estimator_gain(neighbour), rel=0.05)
    assert estimate_sigma(pixels) == pytest.approx(covering_gain(neighbour), rel=0.3)


def test_fractions_choose_the_kind() -> None:
    clean = np.full((8, 8), 0.5, np.float32)
    rng = np.random.default_rng(1)
    told = [add_noise(clean, 0.1, NoiseSettings(correlated_fraction=0.4), rng)[1] for _ in range(1000)]
    lower = sum(level < 0.0999 for level in told)
    assert 100 <= lower <= 400  # of 400 expected, those told less than the deviation
    assert 0.1 * estimator_gain(0.2) <= min(told)
    assert max(told) <= 0.1 * (1 + 1e-12)
    assert {add_noise(clean, 0.1, NoiseSettings(signal_dependent_fraction=1.0), rng)[1] for _ in range(9)} == {0.1}


def test_without_noise_every_kind_is_the_image() -> None:
    clean = np.random.default_rng(0).random((16, 16), np.float32)
    for settings in (NoiseSettings(), NoiseSettings(1.0, 0.0), NoiseSettings(0.0, 1.0)):
        noisy, told = add_noise(clean, 0.0, settings, np.random.default_rng(1))
        assert told == 0.0
        assert np.array_equal(noisy, clean)
