"""The noise of training: Gaussian, signal-dependent, and mildly correlated, with the one number that a network is told of it.

A network is told one level for the whole image. What that means where noise is not white and Gaussian is decided here:

- signal-dependent (Poisson-Gaussian; Foi, Trimeche, Katkovnik, Egiazarian, IEEE TIP 17 (2008)): the root mean square over the
  patch, which is also what a median over the blocks of an image comes near to.
- correlated, as interpolation in a scanner leaves it: a level between what its finest detail shows
  (`client.noise_level.white_sigma`) and the white noise that covers its spectrum, which `--sigma auto` gives; its standard
  deviation, which a user may know, lies between.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

FEWEST: Final = 1e-12  # of the range per count: below it there are more counts than can be drawn, and no noise to be seen


@dataclass(frozen=True)
class NoiseSettings:
    """Which part of the patches has which noise; the rest is white and Gaussian."""

    signal_dependent_fraction: float = 0.0
    correlated_fraction: float = 0.0
    neighbour_max: float = 0.2  # weight of each neighbour in the correlating filter [k, 1, k]; 0.2 correlates them by 0.37


def add_noise(
    clean: Float32[NDArray[np.float32], "h w"], sigma: float, settings: NoiseSettings, rng: np.random.Generator
) -> tuple[NDArray[np.float32], float]:
    """A noisy patch, and the level to tell the network, at most sigma.

    sigma: root mean square of the noise, in units of the range; of correlated noise, that or the level told, whichever is more.
    """
    kind = rng.random()
    if kind < settings.signal_dependent_fraction:
        return poisson_gaussian(clean, sigma, float(rng.random()), rng), sigma
    if kind < settings.signal_dependent_fraction + settings.correlated_fraction:
        neighbour = float(rng.uniform(0.0, settings.neighbour_max))
        least, most = estimator_gain(neighbour), covering_gain(neighbour)
        gain = least * (most / least) ** rng.random()
        deviation = sigma / max(1.0, gain)  # so that no network is told more than sigma
        return clean + np.float32(deviation) * correlated(clean.shape, neighbour, rng), float(deviation * gain)
    return clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32), sigma


def poisson_gaussian(clean: NDArray[np.float32], sigma: float, share: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Counts plus electronic noise of root mean square sigma, `share` of whose variance comes from the counts.

    Values below zero count as zero: a patch without signal has no counts, and gets the Gaussian part alone.
    """
    signal = np.maximum(clean.astype(np.float64), 0.0)
    mean = float(signal.mean())
    electronic = sigma * rng.standard_normal(clean.shape)
    photon = share * sigma**2 / mean if mean > 0.0 else 0.0  # what one count adds to a pixel
    if photon < FEWEST:
        return (clean + electronic).astype(np.float32)
    counts = rng.poisson(signal / photon) * photon - signal
    noisy: NDArray[np.float32] = (clean + counts + (1.0 - share) ** 0.5 * electronic).astype(np.float32)
    return noisy


def correlated(shape: tuple[int, ...], neighbour: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gaussian noise of variance 1, filtered by [k, 1, k] along rows and columns."""
    height, width = shape
    white = rng.standard_normal((height + 2, width + 2))
    rows = white[1:-1] + neighbour * (white[:-2] + white[2:])
    both = rows[:, 1:-1] + neighbour * (rows[:, :-2] + rows[:, 2:])
    return (both / (1.0 + 2.0 * neighbour**2)).astype(np.float32)


def estimator_gain(neighbour: float) -> float:
    """What `client.noise_level.white_sigma` gives for noise of `correlated` and variance 1.

    Its second difference [1, -2, 1] along both axes is normalised for white noise, so its variance falls by
    (6 - 8 r1 + 2 r2)/6 an axis, with r1 and r2 the correlations of first and second neighbours.
    """
    energy = 1.0 + 2.0 * neighbour**2
    first, second = 2.0 * neighbour / energy, neighbour**2 / energy
    return (6.0 - 8.0 * first + 2.0 * second) / 6.0


def covering_gain(neighbour: float) -> float:
    """The white noise that covers the spectrum of `correlated`: its peak, the filter's sum, along both axes."""
    return (1.0 + 2.0 * neighbour) ** 2 / (1.0 + 2.0 * neighbour**2)
