from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom.data import get_testdata_file

from client.images import read_image
from client.noise_level import estimate_sigma


def noisy(pixels, sigma, seed=1):
    return pixels + torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(pixels.shape))) * sigma


@pytest.fixture(scope="module")
def patient():
    return read_image(Path(get_testdata_file("examples_overlay.dcm"))).pixels * 3.5


@pytest.mark.parametrize("sigma", [5 / 255, 25 / 255, 50 / 255])
def test_known_noise_is_found(patient, sigma):
    assert estimate_sigma(noisy(patient, sigma)) == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("sigma", [10 / 255, 25 / 255])
def test_a_background_set_to_zero_does_not_hide_the_noise(patient, sigma):
    canvas = torch.zeros(900, 900, dtype=torch.float64)  # five sixths are air
    canvas[300:600, 200:684] = torch.where(patient > 0.05, noisy(patient, sigma), 0.0)
    assert estimate_sigma(canvas) == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("shape", [(8, 8), (9, 8), (8, 4000), (17, 17), (300, 301)])
def test_any_size(shape):
    assert estimate_sigma(noisy(torch.full(shape, 0.5, dtype=torch.float64), 0.1)) == pytest.approx(0.1, rel=0.5)


def test_without_noise():
    assert estimate_sigma(torch.full((8, 8), 0.5, dtype=torch.float64)) == 0.0
    ramp = torch.arange(64.0, dtype=torch.float64).view(1, -1).expand(64, -1) / 64
    assert estimate_sigma(ramp) < 1e-12
