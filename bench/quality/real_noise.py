"""Real acquisition noise, where no truth is known: how much noise goes, and how much of each edge stays.

- Noise: the standard deviation in flat blocks of the patient, after a plane was fitted and taken off each. Flat are the blocks
  where the heavily smoothed image is flattest, so that the choice does not see the noise.
- Edges: the directional derivative across the strongest edges, summed over them, after against before. Places and directions
  come from a smoothed image; the derivative itself is linear, so noise that is left does not pass for slope.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bench.quality.peers import Denoise, Plane
from client.noise_level import estimate_sigma

BLOCK: Final = 8
FLAT_SHARE: Final = 0.1  # of the blocks that show the patient
EDGE_SHARE: Final = 0.01  # of the pixels
DARK: Final = 0.05  # of the range between the minimum and the 99th percentile: below it is air
CHOICE_SCALE: Final = 2.0  # pixels: of the smoothing before flat blocks and edges are chosen
SLOPE_SCALE: Final = 0.7  # pixels: of the derivative that is measured


@dataclass(frozen=True)
class RealNoise:
    """Before and after, on one slice. sigma: what was estimated and told, in 1/255; noise: in the same unit."""

    sigma: float
    noise_before: float
    noise_after: float
    slope_kept: float

    @property
    def noise_left(self) -> float:
        """The part of the flat regions' noise that is still there."""
        return self.noise_after / self.noise_before


def measure_real_noise(image: Plane, denoise: Denoise) -> tuple[RealNoise, Plane]:
    """Denoise a slice as it is, told the level that `darkroom --sigma auto` would tell. Gives the result too."""
    sigma = estimate_sigma(torch.from_numpy(image.astype(np.float64)))
    result = denoise(image, sigma)
    chosen = flat_blocks(image)
    before, after = (255.0 * float(np.median(_scatter(plane, chosen))) for plane in (image, result))
    return RealNoise(255.0 * sigma, before, after, slope_kept(image, result)), result


def flat_blocks(image: Plane) -> NDArray[np.intp]:
    """Row and column of the corner of each flat block."""
    smooth = gaussian_filter(image.astype(np.float64), CHOICE_SCALE)
    steepness = np.hypot(*np.gradient(smooth))
    low, high = float(image.min()), float(np.percentile(image, 99.0))
    corners, levels = [], []
    for row in range(0, image.shape[0] - BLOCK + 1, BLOCK):
        for column in range(0, image.shape[1] - BLOCK + 1, BLOCK):
            place = np.s_[row : row + BLOCK, column : column + BLOCK]
            if smooth[place].mean() > low + DARK * (high - low):
                corners.append((row, column))
                levels.append(float(steepness[place].max()))
    count = max(1, round(FLAT_SHARE * len(corners)))
    return np.array(corners, dtype=np.intp).reshape(-1, 2)[np.argsort(levels)[:count]]


def slope_kept(before: Plane, after: Plane) -> float:
    """The slope of the strongest edges, after as a part of before."""
    smooth = gaussian_filter(before.astype(np.float64), CHOICE_SCALE)
    down, right = np.gradient(smooth)
    steepness = np.hypot(down, right)
    chosen = steepness >= np.quantile(steepness, 1.0 - EDGE_SHARE)
    slopes = []
    for image in (before, after):
        rows = gaussian_filter(image.astype(np.float64), SLOPE_SCALE, order=(1, 0))
        columns = gaussian_filter(image.astype(np.float64), SLOPE_SCALE, order=(0, 1))
        slopes.append(float(((rows * down + columns * right)[chosen] / steepness[chosen]).sum()))
    return slopes[1] / slopes[0]


def _scatter(image: Plane, corners: NDArray[np.intp]) -> list[float]:
    """The standard deviation of each block about the plane that fits it best."""
    rows, columns = np.mgrid[:BLOCK, :BLOCK]
    design = np.stack([np.ones(BLOCK * BLOCK), rows.ravel(), columns.ravel()], axis=1)
    out = []
    for row, column in corners:
        block = image[row : row + BLOCK, column : column + BLOCK].astype(np.float64).ravel()
        residual = block - design @ np.linalg.lstsq(design, block, rcond=None)[0]
        out.append(float(np.sqrt((residual**2).sum() / (BLOCK * BLOCK - 3))))
    return out
