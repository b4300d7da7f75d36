"""The bound is the largest wire that any input was seen to make; the probe shows the wires that evaluation computes."""

from pathlib import Path

import torch

from protocols.float_evaluation import evaluate_float
from protocols.network import Network
from training.architecture import GatedShape, gated_network, initial_weights
from training.bounds import measure_bounds
from training.hostile import Nursery, pressure
from training.images import load_series
from training.probe import probes

NETWORK = gated_network(GatedShape(channels=4, blocks=2))


def test_a_probe_shows_every_wire() -> None:
    weights = initial_weights(NETWORK, 0)
    images, sigma = torch.rand(2, 1, 16, 12), torch.tensor([0.1, 0.2])

    found = {name: value for probe in probes(NETWORK) for name, value in probe.wires(weights, images, sigma).items()}

    written = [layer for layer in NETWORK.layers if layer.op in ("conv", "gate", "add")]
    assert found.keys() == {layer.out for layer in written}
    for length, layer in enumerate(NETWORK.layers, start=1):
        if layer in written:
            cut = Network(NETWORK.layers[:length], multiple=NETWORK.multiple)
            assert torch.equal(found[layer.out], evaluate_float(cut, weights, images, sigma)), layer.out


def test_the_bound_covers_hostile_inputs(images_folder: Path) -> None:
    weights = initial_weights(NETWORK, 0)
    bounds = measure_bounds(NETWORK, weights, load_series(images_folder, "validation"), seed=0)
    assert bounds.bound == max(2.0, bounds.patterns, bounds.slices, bounds.ascent)
    assert max(bounds.of_kind(NETWORK).values()) <= bounds.bound

    larger = {name: weight * (3 if name == "block0.weight" else 1) for name, weight in weights.items()}
    found = probes(NETWORK)[0].wires(larger, torch.full((1, 1, 16, 16), 2.0), torch.zeros(1))
    assert float(found["block0"].abs().max()) <= 3 * bounds.wires["block0"] + 1e-4


def test_climbing_images_make_the_wires_larger_and_stay_in_range() -> None:
    weights = {name: weight.requires_grad_() for name, weight in initial_weights(NETWORK, 0).items()}
    (probe,) = (one for one in probes(NETWORK) if "block0" in one.names)
    nursery = Nursery(batch=2, side=16, sigma_max=55, seed=0)
    pressures = []
    for _ in range(12):
        images, _ = nursery.offer(2)  # a step that renews no image
        value = pressure(probe, weights, images, torch.zeros(2), limit=0.01)
        value.backward()  # type: ignore[no-untyped-call]
        nursery.climb()
        pressures.append(value.item())
    assert pressures[-1] > pressures[0]
    assert float(nursery.images.min()) >= -1
    assert float(nursery.images.max()) <= 2
