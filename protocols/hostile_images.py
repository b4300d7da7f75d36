"""Images to measure a network on: extreme ones in [-1, 2], the range that a client accepts, and noisy phantoms.

The extreme ones show how large wires grow (DESIGN section 6, Bounds), the phantoms what rounding does to a usual result.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator  # noqa: TID251 - an argument
from numpy.typing import NDArray
from torch import Tensor

from protocols.fixed_point import IMAGE_HIGH, IMAGE_LOW

PATTERNS: Final = ("constant", "checkerboard", "stripes", "step", "salt_and_pepper", "uniform_noise", "blobs")
PHANTOM: Final = "phantom"  # a pattern too, which training presses on; none of those that ranges cover
SIGMAS: Final = (0.0, 25.0, 55.0)  # in 1/255 of the range: the ends of what training saw, and the middle
DRAWS: Final = 3  # of each random pattern
LEVELS: Final = ((IMAGE_LOW, IMAGE_HIGH), (IMAGE_HIGH, IMAGE_LOW), (0.0, 1.0), (1.0, IMAGE_HIGH))
ELLIPSES: Final = 12

Batch = tuple[Tensor, float]  # images (n, 1, side, side), and the noise level that the network is told, in 1/255


def hostile_batches(side: int, rng: Generator) -> Iterator[Batch]:
    """Every pattern between several pairs of levels, without and with noise."""
    for pattern in PATTERNS:
        planes = np.stack([pattern_plane(pattern, side, *pair, rng) for pair in LEVELS for _ in range(DRAWS)])[:, None]
        for sigma in SIGMAS:
            yield torch.from_numpy(planes), sigma
            yield torch.from_numpy(_noisy(planes, sigma, rng)).clamp(IMAGE_LOW, IMAGE_HIGH), sigma


def phantom_batches(side: int, count: int, rng: Generator) -> Iterator[Batch]:
    """Phantoms with noise of each level."""
    for sigma in SIGMAS:
        planes = np.stack([phantom_plane(side, rng) for _ in range(count)])[:, None]
        yield torch.from_numpy(_noisy(planes, sigma, rng)).clamp(IMAGE_LOW, IMAGE_HIGH), sigma


def phantom_plane(side: int, rng: Generator) -> NDArray[np.float32]:
    """Ellipses of several grey levels over each other, in [0, 1], as in the head phantom of Shepp and Logan (1974)."""
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    plane = np.zeros((side, side))
    for size in np.linspace(0.45, 0.03, ELLIPSES):
        angle, (top, left) = rng.uniform(0, np.pi), rng.uniform(-0.4, 0.4, 2) * (0.5 - size)
        along = (rows - top) * np.cos(angle) + (columns - left) * np.sin(angle)
        across = (columns - left) * np.cos(angle) - (rows - top) * np.sin(angle)
        plane[(along / size) ** 2 + (across / (size * rng.uniform(0.4, 1.0))) ** 2 < 1] = rng.random()
    return plane.astype(np.float32)


def pattern_plane(pattern: str, side: int, first: float, second: float, rng: Generator) -> NDArray[np.float32]:
    """A square plane of one of PATTERNS, or PHANTOM, between the levels `first` and `second`."""
    return (first + (second - first) * _mixture(pattern, side, rng)).astype(np.float32)


def _noisy(planes: Float[NDArray[np.float32], "n 1 h w"], sigma: float, rng: Generator) -> NDArray[np.float32]:
    return planes + np.float32(sigma / 255) * rng.standard_normal(planes.shape, dtype=np.float32)


def _mixture(pattern: str, side: int, rng: Generator) -> NDArray[np.float64]:
    """A plane in [0, 1]."""
    rows, columns = np.mgrid[:side, :side]
    period = int(rng.integers(1, 9))
    plane: NDArray[Any]
    match pattern:
        case "constant":
            plane = np.full((side, side), rng.integers(2))
        case "checkerboard":
            plane = (rows // period + columns // period) % 2
        case "stripes":
            plane = ((rows if rng.random() < 0.5 else columns) // period) % 2
        case "step":
            plane = rows + columns > int(rng.integers(side // 2, 3 * side // 2))
        case "salt_and_pepper":
            plane = rng.random((side, side)) < rng.choice([0.01, 0.1, 0.5])
        case "uniform_noise":
            plane = rng.random((side, side))
        case "blobs":
            coarse = rng.random((-(-side // 8), -(-side // 8))) < 0.5
            plane = np.kron(coarse, np.ones((8, 8)))[:side, :side]
        case "phantom":  # PHANTOM
            plane = phantom_plane(side, rng)
        case _:
            raise ValueError(f"unknown pattern {pattern!r}; known are {', '.join(PATTERNS)}")
    return plane.astype(np.float64)
