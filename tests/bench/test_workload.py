"""What is timed is the same every time, and of bounded wires."""

import pytest
import torch

from bench.workload import DNCNN_RANGE, NOISE, SIGMA, phantom, seeded_dncnn
from protocols.float_evaluation import float_wires
from protocols.masked_plan import masked_plan


def test_seeded_weights_are_the_same_every_time() -> None:
    (network, weights), (again, others) = seeded_dncnn(), seeded_dncnn()
    assert network == again
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_it_is_dncnn_17_64() -> None:
    network, weights = seeded_dncnn()
    assert sum(name.endswith(".weight") for name in weights) == 17
    assert weights["conv2.weight"].shape == (64, 64, 3, 3)
    assert [layer.op for layer in network.layers].count("relu") == 16


def test_its_wires_stay_within_their_range_and_flags_are_rare() -> None:
    network, weights = seeded_dncnn()
    image = torch.from_numpy(phantom(64, NOISE))[None, None]
    wires = float_wires(network, weights, image, torch.tensor([SIGMA]))
    assert max(float(wire.abs().max()) for wire in wires.values()) < 2**DNCNN_RANGE.magnitude_bits / 2
    assert masked_plan(network, 512, 512).expected_flags < 0.05


@pytest.mark.parametrize("side", [32, 128])
def test_a_phantom_is_the_same_every_time(side: int) -> None:
    assert (phantom(side, NOISE) == phantom(side, NOISE)).all()
