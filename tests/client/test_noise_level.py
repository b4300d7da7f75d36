from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom.data import get_testdata_file
from scipy.ndimage import gaussian_filter

from client.images import read_image
from client.noise_level import estimate_sigma, white_sigma


def noisy(pixels, sigma, seed=1):
    return pixels + torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(pixels.shape))) * sigma


def smoothed(shape, width, seed=1):
    """Gaussian noise of variance 1, filtered by a Gaussian."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), width, mode="wrap")
    return torch.from_numpy(noise / noise.std())


@pytest.fixture(scope="module")
def patient():
    return read_image(Path(get_testdata_file("examples_overlay.dcm"))).pixels * 3.5


@pytest.fixture(scope="module")
def head():
    """A skull, and soft tissue whose contrast is a twentieth of its brightness, without any noise."""
    rows, columns = np.mgrid[:320, :320] - 160.0
    radius = np.hypot(rows / 140, columns / 110)
    tissue = 0.4 + 0.02 * np.sin(rows / 17) * np.cos(columns / 23)
    return torch.from_numpy(gaussian_filter(np.where(radius < 0.9, tissue, np.where(radius < 1, 0.95, 0.0)), 0.7))


@pytest.mark.parametrize("sigma", [5 / 255, 25 / 255, 50 / 255])
def test_known_noise_is_found(patient, sigma):
    assert white_sigma(noisy(patient, sigma)) == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("sigma", [25 / 255, 50 / 255])
def test_white_noise_has_the_same_level_at_every_scale(patient, sigma):
    assert estimate_sigma(noisy(patient, sigma)) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [2 / 255, 5 / 255, 15 / 255, 50 / 255])
def test_structure_does_not_pass_for_noise(head, sigma):
    only_inside = torch.where(head > 0.05, noisy(head, sigma), 0.0)
    assert estimate_sigma(only_inside) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("width", [0.5, 0.7])
@pytest.mark.parametrize("sigma", [2 / 255, 10 / 255])
def test_noise_that_a_filter_left_is_not_missed(head, sigma, width):
    pixels = torch.where(head > 0.05, head + sigma * smoothed(head.shape, width), 0.0)
    assert white_sigma(pixels) < 0.75 * sigma
    # Of the filtered noise: the root of its spectrum at frequency 0 is 2 sqrt(pi) width times its standard deviation.
    assert sigma < estimate_sigma(pixels) < 2 * np.pi**0.5 * width * sigma * 1.1


@pytest.mark.parametrize("sigma", [10 / 255, 25 / 255])
def test_a_background_set_to_zero_does_not_hide_the_noise(patient, sigma):
    canvas = torch.zeros(900, 900, dtype=torch.float64)  # five sixths are air
    canvas[300:600, 200:684] = torch.where(patient > 0.05, noisy(patient, sigma), 0.0)
    assert white_sigma(canvas) == pytest.approx(sigma, rel=0.2)
    assert estimate_sigma(canvas) >= white_sigma(canvas)


@pytest.mark.parametrize("shape", [(3, 3), (8, 8), (9, 8), (8, 4000), (17, 17), (21, 400), (300, 301)])
def test_any_size(shape):
    estimate = estimate_sigma(noisy(torch.full(shape, 0.5, dtype=torch.float64), 0.1))
    assert estimate == pytest.approx(0.1, rel=0.5 if shape != (3, 3) else 3.0)


def test_too_few_blocks_are_not_judged_at_coarser_scales():
    pixels = 0.5 + 0.1 * smoothed((64, 64), 0.7)  # nine blocks
    assert estimate_sigma(pixels) == white_sigma(pixels)


def test_without_noise():
    assert estimate_sigma(torch.full((8, 8), 0.5, dtype=torch.float64)) == 0.0
    ramp = torch.arange(64.0, dtype=torch.float64).view(1, -1).expand(64, -1) / 64
    assert estimate_sigma(ramp) < 1e-12
    wide = torch.arange(512.0, dtype=torch.float64).view(1, -1).expand(512, -1) / 512
    assert estimate_sigma(wide) < 1e-12
