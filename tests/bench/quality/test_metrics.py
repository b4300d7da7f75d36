"""Figures of merit on images whose figures are known."""

import math

import numpy as np
import pytest

from bench.quality.agreement import correlation, error_shares, regression
from bench.quality.metrics import contrast_to_noise, mean_merit, merit
from training.quality import ssim_of

TRUTH = np.repeat(np.array([[0.2, 0.8]], np.float32), 32, axis=0).repeat(16, axis=1)  # 32x32, half dark and half bright


def test_figures_of_a_constant_error() -> None:
    figures = merit(TRUTH + np.float32(0.1), TRUTH)
    assert figures.psnr_db == pytest.approx(20.0, abs=1e-4)
    assert figures.rmse == pytest.approx(25.5, rel=1e-5)
    assert figures.error_rate == pytest.approx(100 * 0.1 / 0.5, rel=1e-5)
    assert figures.snr_db == pytest.approx(10 * math.log10(0.34 / 0.01), abs=1e-4)
    assert 0.9 < figures.ssim < 0.99
    assert math.isinf(figures.cnr)  # the background is constant


def test_similarity_is_that_of_data_range_one() -> None:
    """Of two flat images the luminance term alone, with C1 = (0.01 L)^2."""
    flat = np.full((32, 32), 0.2, np.float32)
    assert ssim_of(flat + np.float32(0.1), flat) == pytest.approx((2 * 0.2 * 0.3 + 1e-4) / (0.2**2 + 0.3**2 + 1e-4), abs=1e-6)


def test_contrast_to_noise_is_measured_in_the_image_that_is_judged() -> None:
    noisy = TRUTH.copy()
    noisy[::2, :16] += 0.05  # the dark half: mean 0.225, deviation 0.025
    assert contrast_to_noise(noisy, TRUTH) == pytest.approx((0.8 - 0.225) / 0.025, rel=1e-4)


def test_means_are_taken_figure_by_figure() -> None:
    one, other = merit(TRUTH + np.float32(0.1), TRUTH), merit(TRUTH + np.float32(0.01), TRUTH)
    both = mean_merit([one, other])
    assert both.psnr_db == pytest.approx(30.0, abs=1e-3)
    assert both.rmse == pytest.approx((25.5 + 2.55) / 2, rel=1e-4)


def test_agreement_of_a_linear_output() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((40, 40)).astype(np.float32)
    slope, intercept = regression(0.5 * truth + np.float32(0.1), truth)
    assert (slope, intercept) == pytest.approx((0.5, 0.1), abs=1e-5)
    assert correlation(0.5 * truth, truth) == pytest.approx(1.0)
    assert correlation(-truth, truth) == pytest.approx(-1.0)
    assert error_shares(truth + np.float32(0.05), truth, [-0.1, 0.0, 0.1]) == [0.0, 1.0]
