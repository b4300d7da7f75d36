"""The hostile images on which wires grow largest, looked for among many and kept.

Once a network is nearly tame, few images offend, one of some hundreds: those that a step draws show none, and its penalty
is zero. So now and then many are looked at, forward alone, and steps are pressed by those that were found.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from protocols.network import Network
from training.hostile import HostileImages, draw_hostile, penalties
from training.settings import PressureSettings

FIRST: Final = 1 << 40  # number of the first image that is looked at: beyond those that steps draw


def find_offenders(
    network: Network,
    names: Collection[str],
    weights: dict[str, Tensor],
    settings: PressureSettings,
    known: Iterable[int],
    *,
    sigma_max: float,
    seed: int,
    step: int,
) -> list[int]:
    """The numbers of the images with the largest penalties, largest first: of those known, and of settings.looked_at new ones."""
    numbers = [*known, *(FIRST + step * settings.looked_at + index for index in range(settings.looked_at))]
    images = drawn(numbers, settings.side, sigma_max, seed=seed).to(next(iter(weights.values())).device)
    with torch.no_grad():
        found = penalties(network, names, weights, images, settings.limit).tolist()
    worst = sorted(zip(found, numbers, strict=True), reverse=True)[: settings.kept]
    return [number for penalty, number in worst if penalty > 0]


def drawn(numbers: Sequence[int], side: int, sigma_max: float, *, seed: int) -> HostileImages:
    """The images of these numbers: each a function of (seed, number), so that a checkpoint keeps numbers alone."""
    single = [draw_hostile(1, side, sigma_max, seed=seed, step=number) for number in numbers]
    return HostileImages(torch.cat([one.images for one in single]), torch.cat([one.sigma for one in single]))
