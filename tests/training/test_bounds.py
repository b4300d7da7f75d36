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
from training.dncnn import DncnnShape
from training.hostile import HostileImages, draw_hostile, pressure
from training.images import load_series
from training.probe import probe_all

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


def test_an_overflow_counts_as_an_escape(images_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that overflow to infinity leave NaN as their difference, which is larger than nothing."""
    monkeypatch.setattr(bounds_module, "ASCENT_RESTARTS", 1)
    huge = {name: weight * 1e30 for name, weight in initial_weights(NETWORK, 0).items()}
    bounds = measure_bounds(NETWORK, huge, load_series(images_folder, "validation"), seed=0)
    assert bounds.escapes == bounds.searches
    assert bounds.wires["output"] == bounds.usual["output"] == math.inf


def test_without_products_nothing_is_searched_by_ascent(images_folder: Path) -> None:
    network = DncnnShape(channels=4, depth=3).network()
    bounds = measure_bounds(network, initial_weights(network, 0), load_series(images_folder, "validation"), seed=0)
    assert (bounds.searches, bounds.ascent) == (0, 0.0)
    assert bounds.bound == max(2.0, bounds.patterns, bounds.slices)


def test_hostile_images_are_a_function_of_seed_and_step_and_stay_in_range() -> None:
    drawn = [draw_hostile(4, 16, 55.0, seed=1, step=step) for step in range(20)]
    again = draw_hostile(4, 16, 55.0, seed=1, step=3)
    assert torch.equal(drawn[3].images, again.images)
    assert torch.equal(drawn[3].sigma, again.sigma)
    assert not torch.equal(drawn[3].images, drawn[4].images)
    images, sigma = torch.cat([each.images for each in drawn]), torch.cat([each.sigma for each in drawn])
    assert images.dtype == sigma.dtype == torch.float32
    assert (float(images.min()), float(images.max())) == (-1.0, 2.0)
    assert (float(sigma.min()), float(sigma.max())) == (0.0, pytest.approx(55 / 255))


def test_pressure_is_the_mean_logarithm_beyond_the_limit() -> None:
    weights = initial_weights(NETWORK, 0)
    bright = HostileImages(torch.full((1, 1, 16, 16), 2.0), torch.zeros(1))
    peaks = probe_all(NETWORK).wires(weights, bright.images, bright.sigma)["block0"].abs().amax(dim=(0, 2, 3))
    limit = float(peaks.median())
    expected = sum(max(0.0, math.log(float(peak) / limit)) for peak in peaks) / len(peaks)
    assert expected > 0
    assert float(pressure(NETWORK, ("block0",), weights, bright, limit)) == pytest.approx(expected, rel=1e-4)
    assert float(pressure(NETWORK, ("block0",), weights, bright, float(peaks.max()) * 1.01)) == 0


def test_a_network_that_overflows_is_pressed_with_a_finite_gradient() -> None:
    deep = gated_network(GatedShape(channels=4, blocks=8, block="direct"))
    weights = {name: (weight * 30).requires_grad_() for name, weight in initial_weights(deep, 0).items()}
    bright = HostileImages(torch.full((1, 1, 16, 16), 2.0), torch.zeros(1))
    assert not torch.isfinite(evaluate_float(deep, weights, bright.images, bright.sigma)).all()
    names = tuple(layer.out for layer in deep.layers if layer.op == "gate")
    press = pressure(deep, names, weights, bright, limit=8.0)
    press.backward()  # type: ignore[no-untyped-call]
    for name in names:
        gradient = weights[f"{name.removesuffix('.gate')}.filter.weight"].grad
        assert gradient is not None
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) > 0, name
