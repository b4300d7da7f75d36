"""Muon for convolutions, AdamW for the rest: which weight gets which step, and that a kept state goes on."""

from copy import deepcopy

import torch
from torch import Tensor

from training.optimiser import Optimiser


def some_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"full.weight": (8, 4, 3, 3), "full.bias": (8,), "depthwise.weight": (8, 1, 3, 3)}
    return {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}


def take(optimiser: Optimiser, weights: dict[str, Tensor], steps: range) -> None:
    for step in steps:
        for number, weight in enumerate(weights.values()):
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(10 * step + number))
        optimiser.step(0.1)


def test_a_convolutions_step_is_orthogonal_and_as_large_as_adams() -> None:
    weights = some_weights()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    take(Optimiser(weights, 0.1, weight_decay=0.0), weights, range(1))
    moved = (weights["full.weight"].detach() - before["full.weight"]).flatten(1)
    singular = torch.linalg.svdvals(moved)
    assert float(singular.max() / singular.min()) < 2.5  # five Newton-Schulz steps leave them between 0.7 and 1.2
    assert 0.5 < float(moved.square().mean().sqrt()) / (0.1 * 0.2) < 2.0
    for name in ("full.bias", "depthwise.weight"):  # Adam's first step is the sign of the gradient
        assert torch.allclose((weights[name].detach() - before[name]).abs(), torch.full_like(before[name], 0.1), atol=1e-4), name


def test_a_kept_state_goes_on() -> None:
    whole = some_weights()
    take(Optimiser(whole, 0.1, weight_decay=0.01), whole, range(4))
    cut = some_weights()
    first = Optimiser(cut, 0.1, weight_decay=0.01)
    take(first, cut, range(2))
    second = Optimiser(cut, 0.1, weight_decay=0.01)
    second.load(deepcopy(first.state()))
    take(second, cut, range(2, 4))
    assert all(torch.equal(weight, cut[name]) for name, weight in whole.items())
