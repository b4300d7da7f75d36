"""Quality of a denoiser on whole slices: PSNR and SSIM with data range 1 on normalised slices, nothing clipped.

SSIM: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004, with its Gaussian window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from protocols.float_evaluation import evaluate_float
from protocols.network import Network
from training.images import Series, spread_slices


@dataclass(frozen=True)
class Quality:
    """Means over slices at one noise level (in 1/255 of the range)."""

    sigma: float
    slices: int
    psnr_in_db: float
    psnr_out_db: float
    ssim_in: float | None = None
    ssim_out: float | None = None


def measure_quality(
    network: Network,
    weights: dict[str, Tensor],
    series: Sequence[Series],
    sigma: float,
    *,
    slices: int,
    seed: int,
    stated: float | None = None,
    ssim: bool = True,
) -> Quality:
    """Mean quality over `slices` slices of each series, with seeded noise of level sigma/255.

    stated: the level that the network is told, where it differs from the true one.
    """
    rng = np.random.default_rng((seed, round(sigma * 1000)))
    rows = []
    for one in series:
        for plane in spread_slices(one, slices):
            clean = one.normalised(plane)
            noisy = clean + np.float32(sigma / 255) * rng.standard_normal(clean.shape, dtype=np.float32)
            result = denoise(network, weights, noisy, sigma if stated is None else stated)
            row = [psnr_db(noisy, clean), psnr_db(result, clean)]
            rows.append(row + ([ssim_of(noisy, clean), ssim_of(result, clean)] if ssim else []))
    means = [float(value) for value in np.mean(rows, axis=0)]
    return Quality(sigma, len(rows), *means)


def denoise(network: Network, weights: dict[str, Tensor], noisy: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """One plane through the network in floating point, where its weights are; sigma in 1/255 of the range."""
    device = next(iter(weights.values())).device
    with torch.inference_mode():
        images, levels = torch.from_numpy(noisy)[None, None].to(device), torch.tensor([sigma / 255], device=device)
        out = evaluate_float(network, weights, images, levels)
    result: NDArray[np.float32] = out[0, 0].cpu().numpy()
    return result


def psnr_db(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Peak signal to noise ratio for a data range of 1."""
    return float(-10 * np.log10(np.mean((image.astype(np.float64) - truth) ** 2)))


def ssim_of(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Structural similarity for a data range of 1."""
    return float(
        structural_similarity(image, truth, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    )
