"""The shipped architecture: sizes, starting point, and the rounding that the model file applies."""

from pathlib import Path

import pytest
import torch

from client.model_file import load_model, save_model
from protocols.errors import ConfigurationError
from protocols.float_evaluation import evaluate_float
from training.architecture import GatedShape, gated_network, initial_weights, on_grid
from training.cost import network_cost

SMALL = GatedShape(channels=4, blocks=1)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (8, 13), (31, 17)])
def test_output_is_as_large_as_the_image(height: int, width: int) -> None:
    network = gated_network(SMALL)
    weights = initial_weights(network, 0)

    out = evaluate_float(network, weights, torch.rand(2, 1, height, width), torch.tensor([0.1, 0.2]))

    assert out.shape == (2, 1, height, width)
    assert network.output_shape(height, width) == (1, height, width)


def test_an_untrained_network_is_a_small_correction() -> None:
    network = gated_network(GatedShape())
    images = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    out = evaluate_float(network, initial_weights(network, 0), images, torch.tensor([0.1]))

    assert 0 < float((out - images).abs().max()) < 1


def test_initial_weights_follow_the_seed() -> None:
    network = gated_network(SMALL)
    first, same, other = (initial_weights(network, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["block0.weight"], other["block0.weight"])


def test_the_model_file_holds_what_was_measured(tmp_path: Path) -> None:
    network = gated_network(SMALL)
    weights = initial_weights(network, 0)

    save_model(tmp_path / "small.safetensors", network, weights, bound=3.0)

    found = load_model(tmp_path / "small.safetensors")
    assert found.network == network
    assert all(torch.equal(found.weights[name], weight) for name, weight in on_grid(network, weights).items())


def test_cost_by_hand() -> None:
    cost = network_cost(gated_network(GatedShape(channels=32, blocks=4)), 64, 64)
    # at half resolution: entry 5, per block 10 x 32, exit 32
    assert cost.wires_per_pixel == (5 + 4 * 320 + 32) / 4
    block = 32 * 64 + 9 * 64 + 32 * 32 + 32 * 64 + 32 * 32 + 2 * 32
    assert cost.macs_per_pixel == (9 * 5 * 32 + 4 * block + 9 * 32 * 4) / 4
    assert cost.parameters == sum(w.numel() for w in initial_weights(gated_network(GatedShape()), 0).values())


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"blocks": 99}, {"kernel": 2}])
def test_impossible_shapes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="correct the configuration"):
        GatedShape(**wrong)
