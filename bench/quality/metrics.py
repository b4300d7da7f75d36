"""Figures of merit of a denoised image against the truth. Images on [0, 1], data range 1, nothing clipped.

PSNR: -10 log10 of the mean squared error. SSIM: Wang, Bovik, Sheikh, Simoncelli (IEEE TIP 2004) with its Gaussian window, by
scikit-image. The others are common where images are denoised in the cloud, and seldom defined there; here they mean:

- SNR: 10 log10 (sum truth^2 / sum (image - truth)^2).
- error rate: sum |image - truth| / sum |truth|, in per cent.
- CNR: |mean of the object - mean of the background| / standard deviation of the background, in the image that is judged. Object
  and background are told apart in the truth by Otsu's threshold (IEEE Transactions on Systems, Man and Cybernetics 9 (1979)).
  All below it is background, dark anatomy too, whose own spread counts as noise, so that even the truth's is not large.
"""

from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from training.quality import psnr_db, ssim_of

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Merit:
    """The figures of one image, or their means over several. rmse: in 1/255 of the range."""

    psnr_db: float
    ssim: float
    rmse: float
    snr_db: float
    error_rate: float
    cnr: float


def merit(image: Plane, truth: Plane) -> Merit:
    """All figures of one image."""
    error = image.astype(np.float64) - truth
    exact = truth.astype(np.float64)
    return Merit(
        psnr_db=psnr_db(image, truth),
        ssim=ssim_of(image, truth),
        rmse=float(np.sqrt(np.mean(error**2))) * 255.0,
        snr_db=float(10.0 * np.log10(np.sum(exact**2) / np.sum(error**2))),
        error_rate=float(100.0 * np.abs(error).sum() / np.abs(exact).sum()),
        cnr=contrast_to_noise(image, truth),
    )


def contrast_to_noise(image: Plane, truth: Plane) -> float:
    """CNR as above; infinite where the background of the image is constant."""
    subject = truth > threshold_otsu(truth)
    inside, outside = image[subject].astype(np.float64), image[~subject].astype(np.float64)
    spread = float(outside.std())
    contrast = abs(float(inside.mean() - outside.mean()))
    return contrast / spread if spread > 0.0 else float("inf")


def mean_merit(merits: list[Merit]) -> Merit:
    """The mean of each figure."""
    return Merit(*(float(value) for value in np.mean([astuple(one) for one in merits], axis=0)))


def names() -> list[str]:
    """The names of the figures, in the order of `Merit`."""
    return [entry.name for entry in fields(Merit)]
