"""Denoisers that need no training, as people use them in clear. Each is told the true noise level where it can use one.

BM3D (Dabov, Foi, Katkovnik, Egiazarian, IEEE TIP 2007) is its authors' package, whose licence allows non-commercial use only: it
is no dependency of Darkroom, and left out where it is not installed.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from skimage.filters import median
from skimage.restoration import denoise_bilateral, denoise_nl_means
from skimage.transform import resize

Plane = NDArray[np.float32]
Denoise = Callable[[Plane, float], Plane]  # a noisy plane on [0, 1] and its noise level in the same unit

WEIGHTS: Final = ((1, 2, 1), (2, 3, 2), (1, 2, 1))  # of the weighted median; an odd sum has one middle
REDUCTION: Final = 2
NLM_STRENGTH: Final = 0.8  # of the noise level: scikit-image's advice for its fast form
BILATERAL_COLOUR: Final = 3.0  # of the noise level: wide enough that noise alone is no edge
BM3D: Final = "BM3D"


def available_peers() -> Mapping[str, Denoise]:
    """Every peer that is installed, by name."""
    peers: dict[str, Denoise] = {
        "median 3x3": lambda noisy, _: _single(median(noisy, np.ones((3, 3)))),
        "bicubic reduction, weighted median": _reduced_weighted_median,
        "bilateral": _bilateral,
        "non-local means": _non_local_means,
    }
    if importlib.util.find_spec("bm3d") is not None:
        bm3d: Any = importlib.import_module("bm3d")
        peers[BM3D] = lambda noisy, sigma: _single(bm3d.bm3d(noisy.astype(np.float64), sigma_psd=sigma))
    return peers


def _reduced_weighted_median(noisy: Plane, _: float) -> Plane:
    """The pipeline of the medical-cloud literature: reduce by bicubic interpolation, weighted median, enlarge again."""
    small = resize(noisy, tuple(-(-side // REDUCTION) for side in noisy.shape), order=3, mode="edge", anti_aliasing=False)
    return _single(resize(weighted_median(_single(small)), noisy.shape, order=3, mode="edge"))


def weighted_median(image: Plane) -> Plane:
    """The median of 3x3 neighbours, each counted as often as its weight in WEIGHTS; edges are repeated."""
    padded = np.pad(image, 1, mode="edge")
    height, width = image.shape
    votes = [
        padded[row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
        for _ in range(WEIGHTS[row][column])
    ]
    return _single(np.median(np.stack(votes), axis=0))


def _bilateral(noisy: Plane, sigma: float) -> Plane:
    low = float(noisy.min())  # the library wants no negative pixels; the filter itself does not care about a shift
    return _single(denoise_bilateral(noisy - low, sigma_color=BILATERAL_COLOUR * sigma, sigma_spatial=1.5, mode="edge") + low)


def _non_local_means(noisy: Plane, sigma: float) -> Plane:
    return _single(denoise_nl_means(noisy, patch_size=5, patch_distance=6, h=NLM_STRENGTH * sigma, sigma=sigma, fast_mode=True))


def _single(image: NDArray[Any]) -> Plane:
    return np.ascontiguousarray(image, dtype=np.float32)
