"""The bound is the largest wire that any input was seen to make; the probe shows the wires that evaluation computes."""

import math
from pathlib import Path

import pytest
import torch

from protocols.float_evaluation import evaluate_float
from protocols.network import Network
from training import bounds as bounds_module
from training.architecture import GatedShape, gated_network, initial_weights
from training.bounds import measure_bounds
from training.hostile import LIFETIME, Nursery, Offer, pressure
from training.images import load_series
from training.probe import Probe, probe_all

NETWORK = gated_network(GatedShape(channels=4, blocks=2))


def test_a_probe_shows_every_wire() -> None:
    weights = initial_weights(NETWORK, 0)
    images, sigma = torch.rand(2, 1, 16, 12), torch.tensor([0.1, 0.2])

    found = probe_all(NETWORK).wires(weights, images, sigma)

    written = [layer for layer in NETWORK.layers if layer.op in ("conv", "gate", "add")]
    assert found.keys() == {layer.out for layer in written}
    for length, layer in enumerate(NETWORK.layers, start=1):
        if layer in written:
            cut = Network(NETWORK.layers[:length], multiple=NETWORK.multiple)
            assert torch.equal(found[layer.out], evaluate_float(cut, weights, images, sigma)), layer.out


def test_the_bound_covers_hostile_inputs(images_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds_module, "ASCENT_RESTARTS", 1)
    weights = initial_weights(NETWORK, 0)
    bounds = measure_bounds(NETWORK, weights, load_series(images_folder, "validation"), seed=0)
    assert bounds.bound == max(2.0, bounds.patterns, bounds.slices, bounds.ascent)
    assert bounds.searches == len(bounds.wires.keys() - {"image"}) * 2 * 3  # noise and pattern, three noise levels
    assert max(bounds.of_kind(NETWORK).values()) <= bounds.bound

    larger = {name: weight * (3 if name == "block0.weight" else 1) for name, weight in weights.items()}
    found = probe_all(NETWORK).wires(larger, torch.full((1, 1, 16, 16), 2.0), torch.zeros(1))
    assert float(found["block0"].abs().max()) <= 3 * bounds.wires["block0"] + 1e-4


def test_climbing_images_make_their_wire_larger_and_stay_in_range() -> None:
    weights = initial_weights(NETWORK, 0)
    probe = Probe(NETWORK, ("block1", "block2", "exit.project"))
    nursery = Nursery(batch=2, side=16, sigma_max=55, seed=0)
    peaks = []
    for step in range(LIFETIME // 2):  # before the second place is renewed
        offer = nursery.offer(step, len(probe.names))
        wires = probe.wires(weights, offer.images, offer.sigma)
        target = wires[probe.names[int(offer.targets[0])]][0]
        peaks.append(float(target.detach().abs().max()))
        pressure(probe, weights, offer, limit=100.0).backward()  # type: ignore[no-untyped-call]
        nursery.climb(step)
    assert peaks[-1] > peaks[0]
    assert float(nursery.images.min()) >= -1
    assert float(nursery.images.max()) <= 2


def test_a_place_is_renewed_at_the_end_of_its_life() -> None:
    nursery = Nursery(batch=2, side=16, sigma_max=55, seed=0)
    first = nursery.offer(LIFETIME // 2 - 1, 3).images.detach().clone()
    second = nursery.offer(LIFETIME // 2, 3).images.detach().clone()
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    again = Nursery(batch=2, side=16, sigma_max=55, seed=0)
    assert torch.equal(again.offer(LIFETIME // 2, 3).images[1], second[1])


def test_pressure_is_the_logarithm_beyond_the_limit() -> None:
    weights = initial_weights(NETWORK, 0)
    probe = Probe(NETWORK, ("block0",))
    offer = Offer(torch.full((1, 1, 16, 16), 2.0), torch.zeros(1), torch.tensor([0]))
    peak = float(probe.wires(weights, offer.images, offer.sigma)["block0"].abs().max())
    assert float(pressure(probe, weights, offer, limit=peak / 3)) == pytest.approx(2 * math.log(3), rel=1e-4)
    assert float(pressure(probe, weights, offer, limit=peak * 3)) == pytest.approx(-0.01 * math.log(3), rel=1e-4)
