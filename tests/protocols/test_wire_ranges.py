"""Ranges cover what was found with a margin, as coarse as the tolerance allows, and the engine with them stays within it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from protocols import wire_ranges
from protocols.engines import session_plan
from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import FRAC_BITS, decode, encode
from protocols.float_evaluation import evaluate_float
from protocols.hostile_images import hostile_batches
from protocols.layers import TRUNCATED, Add, Conv, Gate, Relu
from protocols.masked_plan import masked_plan
from protocols.network import IMAGE_WIRE, Network, WireRange
from protocols.wire_ranges import EXTRA, MARGIN, SHARE, largest_values, measured_ranges
from tests.protocols.every_layer import EVERY_LAYER, encoded_weights, image_of, weights_of
from tests.protocols.joined_parties import run_parties

DIRECT = Network(
    (
        Conv("block0", IMAGE_WIRE, 4, kernel=3, padding=1),
        Conv("block1.filter", "block0", 8, kernel=3, padding=1),
        Gate("block1.gate", "block1.filter"),
        Add("block1", "block0", "block1.gate"),
        Conv("rectified.filter", "block1", 4, kernel=1),
        Relu("rectified", "rectified.filter"),
        Conv("exit", "rectified", 1, kernel=3, padding=1),
        Add("output", IMAGE_WIRE, "exit"),
    ),
    weight_frac_bits=12,
)


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_ranges, "SIDE", 16)


def bits_of(network: Network) -> dict[str, int]:
    return {name: wire.frac_bits for name, wire in network.ranges}


@pytest.mark.slow
def test_every_truncated_wire_gets_a_range_that_covers_hostile_images_with_a_margin() -> None:
    weights = weights_of(EVERY_LAYER)
    found = measured_ranges(EVERY_LAYER, weights, np.random.default_rng(0))
    assert [name for name, _ in found.network.ranges] == sorted(
        layer.out for layer in EVERY_LAYER.layers if isinstance(layer, TRUNCATED)
    )
    largest = largest_values(EVERY_LAYER, weights, hostile_batches(16, np.random.default_rng(0)))
    for name, wire in found.network.ranges:
        limit = 2.0**wire.magnitude_bits
        assert limit >= MARGIN * found.largest[name]
        assert limit >= largest[name]
        assert limit < 2 * MARGIN * found.largest[name]  # no wider than that asks for


@pytest.mark.parametrize("tolerance", [1 / 255, 1 / 1023, 1 / 4095])
def test_f_and_g_have_the_fewest_flags_within_the_tolerance(tolerance: float) -> None:
    weights = weights_of(DIRECT)
    found = measured_ranges(DIRECT, weights, np.random.default_rng(0), tolerance=tolerance)
    assert found.error <= tolerance * SHARE
    f, g = found.frac_bits, bits_of(found.network)["block1.filter"]
    assert (f + 12) // 2 <= g <= (f + 12) // 2 + EXTRA
    assert bits_of(found.network) == {
        "block0": f,
        "block1.filter": g,
        "block1.gate": f,
        "rectified.filter": f,
        "exit": FRAC_BITS,  # no product reads it
    }
    images = list(wire_ranges.phantom_batches(16, wire_ranges.PHANTOMS, np.random.default_rng(0)))
    others = wire_ranges._by_flags(DIRECT, found.largest)
    place = next(index for index, other in enumerate(others) if other.network == found.network)
    assert all(wire_ranges.rounding_error(other.network, weights, images) > tolerance * SHARE for other in others[:place])


def test_a_smaller_tolerance_costs_flags() -> None:
    weights = weights_of(DIRECT)
    coarse, fine = (measured_ranges(DIRECT, weights, np.random.default_rng(0), tolerance=t) for t in (1 / 255, 1 / 8191))
    assert coarse.frac_bits < fine.frac_bits
    assert coarse.expected_flags(512, 512) < fine.expected_flags(512, 512)
    assert fine.expected_flags(512, 512) < masked_plan(DIRECT, 512, 512).expected_flags  # of ranges that nobody measured


def test_what_the_caller_has_found_counts() -> None:
    weights = weights_of(DIRECT)
    found = measured_ranges(DIRECT, weights, np.random.default_rng(0), known={"block0": 100.0, "output": 3.0})
    assert found.network.range_of("block0").magnitude_bits == 8  # 2 * 100 < 256


@pytest.mark.parametrize("value", [1e9, math.inf, math.nan])
def test_a_wire_that_runs_away_is_refused(value: float) -> None:
    weights = weights_of(DIRECT) | {"block0.bias": torch.full((4,), value)}
    with pytest.raises(NetworkDescriptionError, match="block0 reaches"):
        measured_ranges(DIRECT, weights, np.random.default_rng(0))


def test_a_dead_wire_has_the_smallest_range() -> None:
    weights = {name: torch.zeros_like(weight) for name, weight in weights_of(DIRECT).items()}
    found = measured_ranges(DIRECT, weights, np.random.default_rng(0))
    assert found.network.range_of("exit").magnitude_bits == -8


@pytest.mark.parametrize("scale", [1.0, 2.0**-7])  # of what the ReLU reads: down to a handful of bits
def test_the_engine_stays_within_the_tolerance_of_float(scale: float) -> None:
    weights = {name: w * scale if name.startswith("rectified") else w for name, w in weights_of(DIRECT).items()}
    found = measured_ranges(DIRECT, weights, np.random.default_rng(0), tolerance=1 / 1023)
    image = image_of(20, 17)
    run = run_parties(found.network, encoded_weights(found.network, weights), encode(image), 0, seed=bytes(32))
    exact: dict[str, Tensor] = {name: weight.double() for name, weight in weights.items()}
    expected = evaluate_float(found.network, exact, image[None], torch.zeros(1))[0]
    assert float((decode(run.output) - expected).abs().max()) < 1 / 1023


def test_a_result_in_another_format_is_refused() -> None:
    network = Network((Conv("out", IMAGE_WIRE, 1, kernel=1),), ranges=(("out", WireRange(12, 3)),))
    with pytest.raises(NetworkDescriptionError, match="16 fractional bits, not 12"):
        session_plan("masked", network, 16, 16)
    assert session_plan("", network, 16, 16).engine == "crypten"


def test_what_is_left_of_the_tolerance_is_spent_on_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, tolerance = weights_of(DIRECT), 1 / 750  # whose share leaves a bit to spend
    monkeypatch.setattr(wire_ranges, "FLAGS", math.inf)
    as_ruled = measured_ranges(DIRECT, weights, np.random.default_rng(0), tolerance=tolerance)
    monkeypatch.setattr(wire_ranges, "FLAGS", 0.0)
    thinned = measured_ranges(DIRECT, weights, np.random.default_rng(0), tolerance=tolerance)
    ruled, bits = bits_of(as_ruled.network), bits_of(thinned.network)
    assert bits["block1.filter"] < ruled["block1.filter"]
    assert bits | {"block1.filter": ruled["block1.filter"]} == ruled  # no product reads the others
    assert as_ruled.error < thinned.error <= tolerance * SHARE
    assert thinned.expected_flags(512, 512) < as_ruled.expected_flags(512, 512)
