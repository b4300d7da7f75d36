"""What is measured where no truth is known, on images whose truth is."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bench.quality.real_noise import flat_blocks, measure_real_noise, slope_kept

SIDE = 128
TRUTH = np.full((SIDE, SIDE), 0.3, np.float32)
TRUTH[:, SIDE // 2 :] = 0.7
TRUTH = gaussian_filter(TRUTH, 1.0)
NOISY = TRUTH + np.float32(0.02) * np.random.default_rng(0).standard_normal(TRUTH.shape, dtype=np.float32)


def test_halved_noise_is_reported_as_half_and_edges_as_whole() -> None:
    told = []

    def halve(image: np.ndarray, sigma: float) -> np.ndarray:
        told.append(255 * sigma)
        return TRUTH + np.float32(0.5) * (image - TRUTH)

    measured, _ = measure_real_noise(NOISY, halve)
    assert measured.noise_before == pytest.approx(255 * 0.02, rel=0.05)
    assert measured.noise_left == pytest.approx(0.5, rel=1e-3)
    assert measured.slope_kept == pytest.approx(1.0, abs=0.01)
    assert told == [measured.sigma]
    assert measured.sigma == pytest.approx(255 * 0.02, rel=0.15)


def test_a_blurred_edge_has_lost_slope() -> None:
    assert slope_kept(NOISY, TRUTH) == pytest.approx(1.0, abs=0.01)  # noise in the input is not taken for slope
    assert slope_kept(NOISY, gaussian_filter(TRUTH, 2.0)) < 0.8


def test_flat_blocks_are_not_at_the_edge() -> None:
    corners = flat_blocks(NOISY)
    assert len(corners) > 10
    assert all(abs(column + 4 - SIDE // 2) > 8 for _, column in corners)
