"""Extreme images in [-1, 2], the range that a client accepts (DESIGN section 6, Bounds).

Products of products grow without limit on inputs that training never showed: without the pressure below a network reached
1e13 on them. `training.bounds` measures what is left.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from protocols.fixed_point import IMAGE_HIGH, IMAGE_LOW
from protocols.hostile_images import PATTERNS, pattern_plane
from training.device import CPU
from training.probe import Probe

LIFETIME: Final = 32  # steps that an image climbs
STRIDE: Final = 0.3  # of the first step, falling to zero; 10 strides cross [-1, 2]
LEAK: Final = 0.01
PEAK_FLOOR: Final = 1e-3  # keeps the logarithm finite


def hostile_plane(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random pattern between two random levels of [-1, 2]."""
    first, second = rng.uniform(IMAGE_LOW, IMAGE_HIGH, 2)
    if rng.random() < 0.3:  # uniform levels rarely reach the corners
        first, second = IMAGE_LOW, IMAGE_HIGH
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    return pattern_plane(pattern, side, float(first), float(second), rng)


@dataclass(frozen=True, eq=False)
class Offer:
    """Hostile images, the noise level and the index of the wire that each is meant to make large."""

    images: Float[Tensor, "n 1 h w"]
    sigma: Float[Tensor, " n"]
    targets: Int64[Tensor, " n"]


class Nursery:
    """A few hostile images that climb: each makes one wire larger, step by step, until it is replaced.

    The gradient comes with that of the weights, at no further cost ("free" adversarial training, Shafahi et al., NeurIPS
    2019). The images are state of the run; every choice is a function of (seed, step).
    """

    def __init__(self, batch: int, side: int, sigma_max: float, seed: int, device: torch.device = CPU) -> None:
        self._sigma_max = sigma_max
        self._seed = seed
        self._device = device
        self.images = torch.zeros(batch, 1, side, side, device=device)

    def offer(self, step: int, wires: int) -> Offer:
        """The images of a step, ready for a gradient. wires: how many there are to choose targets from."""
        levels, targets = [], []
        self.images = self.images.detach()
        for index in range(self.images.shape[0]):
            life, age = self._life(step, index)
            rng = np.random.default_rng((self._seed, 1, life, index))
            levels.append(rng.choice([0.0, 1.0, rng.random()]) * self._sigma_max / 255.0)
            targets.append(int(rng.integers(wires)))
            if age == 0 or step == 0:
                self.images[index, 0] = torch.from_numpy(hostile_plane(self.images.shape[-1], rng))
        sigma = torch.tensor(levels, dtype=torch.float32, device=self._device)
        return Offer(self.images.requires_grad_(), sigma, torch.tensor(targets, device=self._device))

    def climb(self, step: int) -> None:
        """Follow the sign of the gradient that the backward pass left, in strides that shrink with age."""
        slope = self.images.grad
        moved = self.images.detach()
        if slope is not None:
            ages = torch.tensor([self._life(step, index)[1] for index in range(moved.shape[0])], device=self._device)
            strides = (STRIDE * (1 - ages / LIFETIME)).view(-1, 1, 1, 1)
            moved = (moved + strides * torch.nan_to_num(slope).sign()).clamp(IMAGE_LOW, IMAGE_HIGH)
        self.images = moved

    def renew(self, step: int) -> None:
        """Put a fresh image at every place: one of them has made a wire overflow, and has no gradient to go on with."""
        planes = [
            hostile_plane(self.images.shape[-1], np.random.default_rng((self._seed, 2, step, index)))
            for index in range(self.images.shape[0])
        ]
        self.images = torch.from_numpy(np.stack(planes)[:, None]).to(self._device)

    def _life(self, step: int, index: int) -> tuple[int, int]:
        """Which image stands at this place, and its age in steps; places are renewed in turn."""
        return divmod(step + index * LIFETIME // self.images.shape[0], LIFETIME)


def pressure(probe: Probe, weights: dict[str, Tensor], offer: Offer, limit: float) -> Tensor:
    """Mean of log(peak/limit): over images and wires, of the peaks beyond the limit; and over images, of each one's target.

    The logarithm keeps the gradient usable when a wire is many orders of magnitude too large. A target counts within the
    limit too, by a small fraction: this gives harmless images a direction to climb.
    """
    wires = probe.wires(weights, offer.images, offer.sigma)
    peaks = torch.stack([value.abs().amax(dim=(1, 2, 3)) for value in wires.values()], dim=1)
    excess = peaks.clamp(min=PEAK_FLOOR).div(limit).log()
    aimed = excess.gather(1, offer.targets[:, None])
    return functional.relu(excess).mean() + functional.leaky_relu(aimed, LEAK).mean()
