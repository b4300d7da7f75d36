"""Every peer takes noise off, and leaves an image of the same size."""

import numpy as np
import pytest

from bench.quality.peers import BM3D, available_peers, weighted_median
from training.quality import psnr_db

rows, columns = np.mgrid[:48, :45]
TRUTH = (0.5 + 0.2 * np.sin(rows / 12) + 0.2 * np.cos(columns / 15)).astype(np.float32)


@pytest.mark.parametrize("name", [name for name in available_peers() if name != BM3D])  # BM3D: seconds, and not everywhere
def test_a_peer_takes_noise_off(name: str) -> None:
    noisy = TRUTH + np.float32(0.1) * np.random.default_rng(0).standard_normal(TRUTH.shape, dtype=np.float32)
    result = available_peers()[name](noisy, 0.1)
    assert result.shape == TRUTH.shape
    assert result.dtype == np.float32
    assert psnr_db(result, TRUTH) > psnr_db(noisy, TRUTH) + 3


def test_the_weighted_median_counts_neighbours_by_weight() -> None:
    image = np.zeros((3, 3), np.float32)
    image[1, :] = 1  # weights 2, 3, 2 of 15: outvoted
    assert weighted_median(image)[1, 1] == 0
    image[0, 1] = 1  # and 2 more: 9 of 15
    assert weighted_median(image)[1, 1] == 1
    assert weighted_median(np.full((4, 5), 0.3, np.float32)) == pytest.approx(0.3)
