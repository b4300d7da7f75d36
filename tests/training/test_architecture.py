"""The shipped architecture: sizes, starting point, and the rounding that the model file applies."""

from pathlib import Path

import pytest
import torch

from client.model_file import load_model, save_model
from protocols.errors import ConfigurationError
from protocols.fixed_point import FRAC_BITS, decode, encode
from protocols.float_evaluation import evaluate_float
from protocols.layers import Conv
from protocols.masked_plan import masked_plan
from protocols.network import Network
from protocols.oracle import evaluate_oracle
from training.architecture import BLOCKS, GatedShape, gated_network, initial_weights, on_grid
from training.cost import network_cost
from training.dncnn import DncnnShape

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
    # the noise level is one word; the image; at half resolution: entry 32, per block 10 x 32, exit 4
    assert cost.wires_per_pixel == 1 / 64**2 + 1 + (32 + 4 * 320 + 4) / 4
    block = 32 * 64 + 9 * 64 + 32 * 32 + 32 * 64 + 32 * 32 + 2 * 32
    assert cost.macs_per_pixel == (9 * 5 * 32 + 4 * block + 9 * 32 * 4) / 4
    assert cost.parameters == sum(w.numel() for w in initial_weights(gated_network(GatedShape()), 0).values())


@pytest.mark.parametrize(
    "wrong", [{"channels": 0}, {"blocks": 99}, {"kernel": 2}, {"factor": 3}, {"outer": -1}, {"attention": 2}]
)
def test_impossible_shapes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="correct the configuration"):
        GatedShape(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="known are nafnet, gate, direct"):
        GatedShape(block="relu")


FAMILY = [
    GatedShape(channels=4, blocks=2, block=block, factor=factor, outer=outer, attention=attention)
    for block in BLOCKS
    for factor, outer, attention in ((2, 0, 0), (4, 0, 1), (2, 1, 0), (4, 1, 1))
]


@pytest.mark.parametrize("shape", FAMILY, ids=repr)
def test_every_member_of_the_family_is_one_network_everywhere(shape: GatedShape) -> None:
    """Float, fixed point and the description's text agree, and an untrained network is a small correction."""
    network = gated_network(shape)
    weights = on_grid(network, initial_weights(network, 0))
    image = torch.rand(1, 19, 22, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    words, level = encode(image), encode(torch.tensor(0.1))

    exact = {name: weight.double() for name, weight in weights.items()}
    expected = evaluate_float(network, exact, decode(words)[None], decode(level)[None])[0]
    encoded = {n: encode(w, frac_bits=network.weight_frac_bits if n.endswith(".weight") else FRAC_BITS) for n, w in exact.items()}
    found = decode(evaluate_oracle(network, encoded, words, int(level)))

    assert Network.from_json(network.to_json()) == network
    assert network_cost(network).rounds == masked_plan(network, 19, 22).rounds
    assert float((found - expected).abs().max()) < 2**-16 * 200  # each of up to 60 truncations drops less than a unit
    assert 0 < float((expected - image).abs().max()) < 1.5


@pytest.mark.parametrize(("block", "wires"), [("nafnet", 10), ("gate", 4), ("direct", 3)])
def test_wires_of_each_block(block: str, wires: int) -> None:
    one, two = (network_cost(gated_network(GatedShape(channels=16, blocks=n, block=block))).wires_per_pixel for n in (1, 2))
    assert two - one == wires * 16 / 4
    weighed = network_cost(gated_network(GatedShape(channels=16, blocks=1, block=block, attention=1))).wires_per_pixel
    assert weighed - one == pytest.approx(16 / 4 + 2 * 16 / 512**2)  # the gate once more; means and weights, 1x1


def test_dncnn_has_the_published_size() -> None:
    network = DncnnShape().network()
    cost = network_cost(network, 64, 64)
    convs = 2 * 9 * 64 + 15 * 64 * 9 * 64 + 64 * 9  # the first with the noise level's channel
    assert cost.parameters == convs + 16 * 64 + 1
    assert cost.macs_per_pixel == convs + 16 * 64  # and the selection of each ReLU
    out = evaluate_float(network, initial_weights(network, 0), torch.rand(1, 1, 9, 12), torch.tensor([0.1]))
    assert out.shape == (1, 1, 9, 12)


def test_larger_kernels_of_a_u_lie_where_they_are_cheap() -> None:
    network = gated_network(GatedShape(channels=4, blocks=2, block="direct", outer=1, kernel=5))
    kernels = {layer.out: layer.kernel for layer in network.layers if isinstance(layer, Conv) and layer.out.endswith(".filter")}
    assert kernels == {"left1.filter": 3, "block1.filter": 5, "block2.filter": 5, "right1.filter": 3}
