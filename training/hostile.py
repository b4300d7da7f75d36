"""Extreme images in [-1, 2], the range that a client accepts, and the pressure that keeps wires small on them.

Products of products grow without limit on inputs that training never showed (DESIGN section 6, Bounds): without pressure these
networks reach 1e40 on stripes. `training.bounds` measures what is left.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from protocols.fixed_point import IMAGE_HIGH, IMAGE_LOW
from protocols.float_evaluation import float_wires
from protocols.hostile_images import PATTERNS, PHANTOM, pattern_plane
from protocols.network import Network

SHARES: Final = {"checkerboard": 0.3, "stripes": 0.3, "step": 0.15, "salt_and_pepper": 0.1, PHANTOM: 0.1}  # others: equal parts
PRESSED: Final = (*PATTERNS, PHANTOM)
CORNERS: Final = 0.7  # of the patterns lie between the ends of the range, which uniform levels rarely reach
NOISY: Final = 0.5  # of the patterns carry noise of the level that the network is told
CLEARANCE: Final = 2.0  # times the limit: where wires are cut off under pressure
STRIDE: Final = 0.15  # of a step of a climbing image; the range is 3 wide
PEAK_FLOOR: Final = 1e-3  # keeps the logarithm finite


@dataclass(frozen=True, eq=False)
class HostileImages:
    """Images, and the noise level that the network is told of each."""

    images: Float[Tensor, "n 1 h w"]
    sigma: Float[Tensor, " n"]

    def to(self, device: torch.device) -> "HostileImages":
        """The images where they are learned from."""
        return HostileImages(self.images.to(device), self.sigma.to(device))


def hostile_plane(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random pattern between two random levels of [-1, 2]: more often one that is hard to keep small, periodic and full."""
    first, second = rng.uniform(IMAGE_LOW, IMAGE_HIGH, 2)
    if rng.random() < CORNERS:
        first, second = (IMAGE_LOW, IMAGE_HIGH) if rng.random() < 0.5 else (IMAGE_HIGH, IMAGE_LOW)
    rest = (1.0 - sum(SHARES.values())) / (len(PRESSED) - len(SHARES))
    pattern = PRESSED[rng.choice(len(PRESSED), p=[SHARES.get(name, rest) for name in PRESSED])]
    return pattern_plane(pattern, side, float(first), float(second), rng)


def draw_hostile(count: int, side: int, sigma_max: float, *, seed: int, step: int) -> HostileImages:
    """The hostile images of one step, a function of (seed, step). sigma_max: in 1/255; half the images are told an end of it."""
    rng = np.random.default_rng((seed, 1, step))
    planes, levels = [], []
    for _ in range(count):
        level = float(rng.choice([0.0, rng.random(), rng.random(), 1.0])) * sigma_max / 255.0
        plane = hostile_plane(side, rng)
        if rng.random() < NOISY:
            plane = np.clip(plane + np.float32(level) * rng.standard_normal(plane.shape, dtype=np.float32), IMAGE_LOW, IMAGE_HIGH)
        planes.append(plane)
        levels.append(level)
    return HostileImages(torch.from_numpy(np.stack(planes)[:, None]), torch.tensor(levels, dtype=torch.float32))


def climbed(
    network: Network, names: Collection[str], weights: dict[str, Tensor], hostile: HostileImages, limit: float, steps: int
) -> HostileImages:
    """The images after some steps by the sign of the gradient of their largest channels: mere patterns show rare peaks rarely."""
    fixed = {name: weight.detach() for name, weight in weights.items()}
    images = hostile.images
    for _ in range(steps):
        images = images.detach().requires_grad_()
        peaks = _peaks(network, names, fixed, HostileImages(images, hostile.sigma), limit)
        tops = torch.stack([peak.amax(dim=1) for peak in peaks], dim=1)
        (slope,) = torch.autograd.grad(tops.clamp(min=PEAK_FLOOR).log().sum(), images)
        images = (images.detach() + STRIDE * slope.sign()).clamp(IMAGE_LOW, IMAGE_HIGH)
    return HostileImages(images, hostile.sigma)


def pressure(
    network: Network, names: Collection[str], weights: dict[str, Tensor], hostile: HostileImages, limit: float
) -> Tensor:
    """Mean of log(peak/limit) over images and channels of the named wires, of the peaks beyond the limit.

    Every named wire is cut off at CLEARANCE times the limit before the next layers read it: so each layer answers for what it
    adds to inputs that are nearly small enough, nothing overflows, and once all is within the limit nothing is cut off.
    """
    return penalties(network, names, weights, hostile, limit).mean()


def penalties(
    network: Network, names: Collection[str], weights: dict[str, Tensor], hostile: HostileImages, limit: float
) -> Float[Tensor, " n"]:
    """`pressure`'s part of each image."""
    peaks = torch.cat(_peaks(network, names, weights, hostile, limit), dim=1)
    return torch.relu(peaks.clamp(min=PEAK_FLOOR).div(limit).log()).mean(dim=1)


def _peaks(
    network: Network, names: Collection[str], weights: dict[str, Tensor], hostile: HostileImages, limit: float
) -> list[Float[Tensor, "n c"]]:
    """The largest magnitude in each channel of the named wires, which are cut off before later layers read them."""
    ceiling = CLEARANCE * limit

    def cut_off(name: str, value: Tensor) -> Tensor:
        return value.clamp(-ceiling, ceiling) if name in names else value

    wires = float_wires(network, weights, hostile.images, hostile.sigma, cut_off)
    return [wires[name].abs().amax(dim=(2, 3)) for name in names]
