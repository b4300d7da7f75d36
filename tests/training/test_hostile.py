"""Hostile images climb towards larger wires, within the range that a client accepts. How they are drawn: test_bounds.py."""

import math

import pytest
import torch
from torch import Tensor

from protocols.fixed_point import IMAGE_HIGH, IMAGE_LOW
from protocols.float_evaluation import float_wires
from training.architecture import GatedShape, gated_network, initial_weights
from training.hostile import STRIDE, HostileImages, climbed, draw_hostile

NETWORK = gated_network(GatedShape(channels=4, blocks=2, block="direct"))
WEIGHTS = initial_weights(NETWORK, 0)
NAMES = tuple(layer.out for layer in NETWORK.layers if layer.op == "gate")
FAR = 1e6  # a limit that cuts nothing off


def climb(images: HostileImages, *, limit: float = FAR, steps: int = 3, weights: dict[str, Tensor] = WEIGHTS) -> HostileImages:
    return climbed(NETWORK, NAMES, weights, images, limit, steps)


def middling(count: int, seed: int = 3) -> HostileImages:
    """Images with room to climb on all sides."""
    generator = torch.Generator().manual_seed(seed)
    return HostileImages(torch.rand(count, 1, 16, 16, generator=generator), torch.full((count,), 0.1))


def peak(images: HostileImages, name: str) -> Tensor:
    """The largest magnitude in the named wire of each image."""
    found: Tensor = float_wires(NETWORK, WEIGHTS, images.images, images.sigma)[name].abs().amax(dim=(1, 2, 3))
    return found


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_climbing_images_stay_in_range(steps: int) -> None:
    before = draw_hostile(4, 16, 55.0, seed=1, step=2)
    after = climb(before, steps=steps)
    assert IMAGE_LOW <= float(after.images.min())
    assert float(after.images.max()) <= IMAGE_HIGH
    assert float((after.images - before.images).abs().max()) <= steps * STRIDE + 1e-6
    assert torch.equal(after.sigma, before.sigma)
    assert not after.images.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_climbing_raises_the_peak_of_the_largest_channel(name: str) -> None:
    before = middling(6)
    after = climbed(NETWORK, (name,), WEIGHTS, before, FAR, 1)
    assert bool((peak(after, name) > 1.05 * peak(before, name)).all())
    further = climbed(NETWORK, (name,), WEIGHTS, before, FAR, 4)
    assert bool((peak(further, name) > peak(after, name)).all())


def test_several_wires_climb_together_as_their_logarithms_do() -> None:
    def height(images: HostileImages) -> float:
        return sum(math.log(value) for name in NAMES for value in peak(images, name).tolist())

    before = middling(6)
    assert height(climb(before)) > height(climb(before, steps=1)) > height(before)


def test_what_a_climb_gives_depends_on_its_input_alone() -> None:
    before, kept = middling(3), middling(3).images
    torch.manual_seed(1)
    first = climb(before).images
    torch.manual_seed(2)
    assert torch.equal(climb(middling(3)).images, first)
    assert torch.equal(before.images, kept)  # not climbed in place

    others = HostileImages(torch.cat([kept[:1], middling(2, seed=4).images]), before.sigma)
    assert torch.equal(climb(others).images[0], first[0])  # each image climbs by itself
    assert not torch.equal(climb(others).images[1], first[1])


def test_a_climb_leaves_no_trace_in_the_weights_that_learn() -> None:
    learned = {name: weight.clone().requires_grad_() for name, weight in WEIGHTS.items()}
    after = climb(middling(2), weights=learned)
    assert torch.equal(after.images, climb(middling(2)).images)
    assert all(weight.grad is None for weight in learned.values())


def test_no_steps_leave_the_images_as_they_are() -> None:
    assert torch.equal(climb(middling(2), steps=0).images, middling(2).images)
