"""What is promised of the model files that are shipped, read off their descriptions: size, cost and flags."""

from pathlib import Path

import pytest

from client.model_file import load_model
from darkroom.simulation import shipped_models
from protocols.layers import Relu
from protocols.masked_plan import masked_plan
from protocols.wire_ranges import FLAGS_SIDE
from training.cost import network_cost

WIRES = {"base": 240.0, "small": 100.0}  # at most, per pixel
MACS = 45_000.0


@pytest.mark.parametrize("path", shipped_models(), ids=lambda path: path.stem)
def test_a_shipped_model_keeps_to_its_budget_and_is_rarely_flagged(path: Path) -> None:
    network = load_model(path).network
    cost = network_cost(network)
    assert cost.wires_per_pixel <= WIRES[path.stem]
    assert cost.macs_per_pixel <= MACS
    assert not any(isinstance(layer, Relu) for layer in network.layers)
    assert masked_plan(network, FLAGS_SIDE, FLAGS_SIDE).expected_flags < 0.01
    assert path.with_suffix(".md").exists()  # its card
