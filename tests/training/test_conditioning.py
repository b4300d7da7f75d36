"""The reach of an error is known where the network is nearly the identity."""

from pathlib import Path

import pytest

from training.architecture import GatedShape, gated_network, initial_weights, on_grid
from training.conditioning import measure_conditioning
from training.images import load_series

NETWORK = gated_network(GatedShape(channels=4, blocks=2))


def test_conditioning_of_a_known_network(images_folder: Path) -> None:
    """The error of the last convolution reaches the output unchanged, and an untrained network adds little to it."""
    series = load_series(images_folder, "validation")
    conditioning = measure_conditioning(NETWORK, on_grid(NETWORK, initial_weights(NETWORK, 0)), series, seed=0, draws=2)
    assert conditioning.one_layer == pytest.approx(1, rel=1e-3)
    assert 0.5 < conditioning.all_layers < 3
