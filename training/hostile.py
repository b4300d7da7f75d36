"""Extreme images in [-1, 2], the range that a client accepts (DESIGN section 6, Bounds).

Products of products grow without limit on inputs that training never showed: a network trained on ordinary images alone
reached 1e13 on these. So training presses on the wires that they make large, and `training.bounds` measures what is left.
"""

from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from protocols.fixed_point import IMAGE_HIGH, IMAGE_LOW
from training.probe import Probe

PATTERNS: Final = ("constant", "checkerboard", "stripes", "step", "salt_and_pepper", "uniform_noise", "blobs")
RENEWAL: Final = 1 / 32  # chance of an image to be replaced, per step: it climbs for 32 steps on average
STRIDE: Final = 0.2  # 15 strides cross [-1, 2]
LEAK: Final = 0.01
PEAK_FLOOR: Final = 1e-3  # keeps the logarithm finite


def hostile_plane(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random pattern between two random levels of [-1, 2]."""
    first, second = rng.uniform(IMAGE_LOW, IMAGE_HIGH, 2)
    if rng.random() < 0.3:  # uniform levels rarely reach the corners
        first, second = IMAGE_LOW, IMAGE_HIGH
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    return pattern_plane(pattern, side, float(first), float(second), rng)


class Nursery:
    """A few hostile images that climb: each step moves them to where they make the wires larger, or replaces them.

    The gradient comes with that of the weights, at no further cost ("free" adversarial training, Shafahi et al., NeurIPS
    2019). The images are state of the run; every choice is a function of (seed, step).
    """

    def __init__(self, batch: int, side: int, sigma_max: float, seed: int) -> None:
        self._sigma_max = sigma_max
        self._seed = seed
        rng = np.random.default_rng((seed, 1))
        self.images = torch.from_numpy(np.stack([hostile_plane(side, rng) for _ in range(batch)])[:, None])

    def offer(self, step: int) -> tuple[Tensor, Float[Tensor, " n"]]:
        """The images of a step, ready for a gradient, and their noise levels."""
        rng = np.random.default_rng((self._seed, step, 1))
        count, _, side, _ = self.images.shape
        for index in np.flatnonzero(rng.random(count) < RENEWAL):
            self.images[index, 0] = torch.from_numpy(hostile_plane(side, rng))
        sigma = torch.from_numpy(rng.uniform(0.0, self._sigma_max / 255.0, count).astype(np.float32))
        return self.images.requires_grad_(), sigma

    def climb(self) -> None:
        """Follow the sign of the gradient that the backward pass left."""
        slope = self.images.grad
        moved = self.images.detach()
        if slope is not None:
            moved = (moved + STRIDE * torch.nan_to_num(slope).sign()).clamp(IMAGE_LOW, IMAGE_HIGH)
        self.images = moved


def pressure(probe: Probe, weights: dict[str, Tensor], images: Tensor, sigma: Tensor, limit: float) -> Tensor:
    """Mean over images and wires of log(peak/limit); where a peak is within the limit, a small fraction of that.

    The logarithm keeps the gradient usable when a wire is many orders of magnitude too large. The fraction gives images
    that are still harmless a direction to climb. A peak is over all channels: means over channels hide a single one.
    """
    peaks = [value.abs().amax(dim=(1, 2, 3)) for value in probe.wires(weights, images, sigma).values()]
    return functional.leaky_relu(torch.stack(peaks).clamp(min=PEAK_FLOOR).div(limit).log(), LEAK).mean()


def pattern_plane(pattern: str, side: int, first: float, second: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A square plane of one of PATTERNS, between the levels `first` and `second`."""
    return (first + (second - first) * _mixture(pattern, side, rng)).astype(np.float32)


def _mixture(pattern: str, side: int, rng: np.random.Generator) -> NDArray[np.float64]:
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
        case _:
            raise ValueError(f"unknown pattern {pattern!r}; known are {', '.join(PATTERNS)}")
    return plane.astype(np.float64)
