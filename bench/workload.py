"""The images that are timed: a synthetic phantom with known noise, the same for every engine. Seeded, so runs compare."""

import numpy as np
from numpy.typing import NDArray
from skimage.data import shepp_logan_phantom
from skimage.transform import resize


def phantom(side: int, sigma: float) -> NDArray[np.float32]:
    """Shepp and Logan's head phantom with Gaussian noise of `sigma` / 255."""
    clean = resize(shepp_logan_phantom(), (side, side), anti_aliasing=True)
    noise = np.random.default_rng(side).normal(0.0, sigma / 255, clean.shape)
    return np.asarray(clean + noise, dtype=np.float32)
