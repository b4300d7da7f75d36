"""A clamp taken apart: exact on masked wires at every edge, in formats that hold what passes through it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.engines import MASKED, session_plan
from protocols.errors import NetworkDescriptionError
from protocols.float_evaluation import evaluate_float
from protocols.identifiers import Role
from protocols.layers import Add, Clamp, Relu, Scale
from protocols.lowering import constant_words, lower
from protocols.masked_plan import MAX_SIGN_BITS, ReluBitsItem, masked_plan
from protocols.network import IMAGE_WIRE, Network, WireRange
from protocols.oracle import evaluate_oracle
from tests.protocols.covered_layers import covered_layers, items_of
from tests.protocols.every_layer import image_of
from tests.protocols.joined_parties import run_parties

SEED = bytes(range(32))
X = IMAGE_WIRE
UNIT = 2.0**-16
BOUNDS = [(0.0, 1.0), (-0.25, 0.5), (-UNIT, UNIT), (0.0, UNIT), (1.0, 1.5), (-0.75, -0.5), (-4.0, 4.0), (UNIT, 3.0), (-99.0, 0.0)]


def edges_of(low, high):
    """An image (1, 8, 8) that has both bounds, one unit to either side of them, and the ends of what a client sends."""
    words = [-(1 << 16), 1 << 17, 0, 1, -1]
    words += [round(bound / UNIT) + step for bound in (low, high) for step in (-1, 0, 1) if -1 <= bound <= 2]
    image = (image_of(8, 8) / UNIT).long()
    image.view(-1)[: len(words)] = torch.tensor(words).clamp(-(1 << 16), 1 << 17)
    return image


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_a_clamp_is_exact_at_its_bounds_and_around_them(low, high):
    network, image = Network((Clamp("c", X, low, high),)), edges_of(low, high)
    joined = run_parties(network, {}, image, 0, seed=SEED)
    expected = image.clamp(round(low / UNIT), round(high / UNIT))
    assert torch.equal(joined.output, expected)
    assert [joined.results[role].flags for role in Role] == [0, 0]
    assert torch.equal(evaluate_oracle(network, {}, image, 0), expected)
    assert torch.equal(evaluate_float(network, {}, image[None].double() * UNIT, torch.zeros(1))[0] / UNIT, expected.double())


@pytest.mark.slow
@given(
    bounds=st.sets(st.integers(-(1 << 18), 1 << 18).map(lambda words: words * UNIT), min_size=2, max_size=2).map(sorted),
    frac_bits=st.integers(8, 16),
    seed=st.integers(0, 255),
)
@settings(max_examples=20, deadline=None, database=None)
def test_a_clamp_is_exact_on_a_wire_of_another_format(bounds, frac_bits, seed):
    """The image on a coarser grid, up to carries. Equal masks give equal ones without the clamp; the last scale is exact."""
    ranges = (("coarse", WireRange(frac_bits, 2)), ("out", WireRange(16, 3)))
    coarse, out = Scale("coarse", X, 1.0), Scale("out", "c", 1.0)
    clamped, plain = (
        run_parties(Network(layers, ranges=ranges), {}, edges_of(*bounds), 0, seed=bytes([seed]) * 32).output
        for layers in ((coarse, Clamp("c", "coarse", *bounds), out), (coarse, Scale("out", "coarse", 1.0)))
    )
    assert torch.equal(clamped, plain.clamp(*(round(bound / UNIT) for bound in bounds)))


def test_both_comparisons_share_their_messages_and_the_result_has_the_format_of_its_bounds():
    lowered = lower(Network((Clamp("c", X, 0.0, 1.0), Add("out", "c", X))), 8, 8)
    assert [(layer.op, layer.out) for layer in lowered.layers] == [
        ("offset", "c|low|offset"),
        ("relu", "c|low|excess"),
        ("offset", "c|high|offset"),
        ("relu", "c|high|excess"),
        ("clamped", "c"),
        ("add", "out"),
    ]
    formats = {name: (wire.frac_bits, wire.magnitude_bits) for name, wire in lowered.formats.items()}
    assert formats["c|low|offset"] == (16, 2)  # nothing is added, so nothing grows
    assert formats["c|high|offset"] == (16, 3)
    assert formats["c"] == (16, 1)  # 1 is not below 2^0
    plan = masked_plan(Network((Clamp("c", X, 0.0, 1.0),)), 8, 8)
    assert plan.rounds == 1 + 3
    assert [item.bits for item in plan.items if isinstance(item, ReluBitsItem)] == [20, 21]


@given(
    bounds=st.sets(st.integers(-(1 << 36), 1 << 36).map(lambda words: words * UNIT), min_size=2, max_size=2),
    frac_bits=st.integers(8, 20),
    magnitude_bits=st.integers(-8, 20),
)
@settings(max_examples=200, deadline=None, database=None)
def test_a_wire_plus_a_constant_stays_within_its_format(bounds, frac_bits, magnitude_bits):
    bounds = {"low": min(bounds), "high": max(bounds)}
    layers = (Scale("s", X, 1.0), Clamp("c", "s", **bounds))
    found = lower(Network(layers, ranges=(("s", WireRange(frac_bits, magnitude_bits)),)), 8, 8).formats
    for name, bound in bounds.items():
        wire = found[f"c|{name}|offset"]
        assert wire.frac_bits >= frac_bits
        largest = (1 << (wire.frac_bits + magnitude_bits)) - 1 + abs(constant_words(bound, wire.frac_bits))
        whole = 1 << (wire.frac_bits + wire.magnitude_bits)
        assert largest < whole <= 4 * largest
    whole = 1 << (found["c"].frac_bits + found["c"].magnitude_bits)
    assert max(abs(constant_words(bound, found["c"].frac_bits)) for bound in bounds.values()) < whole


def test_a_constant_off_the_grid_is_refused():
    assert constant_words(-0.75, 8) == -192
    with pytest.raises(NetworkDescriptionError, match=r"0.5001 is no multiple of 2\^-8"):
        constant_words(0.5001, 8)


@pytest.mark.parametrize("layer", [Relu("c", "wide"), Clamp("c", "wide", 0.0, 1.0)])
def test_a_comparison_that_is_too_wide_runs_on_the_general_engine(layer):
    network = Network((Scale("wide", X, 1.0), layer), ranges=(("wide", WireRange(16, 20)),))
    with pytest.raises(NetworkDescriptionError, match=f"at most {MAX_SIGN_BITS}"):
        session_plan(MASKED, network, 8, 8)
    assert session_plan("", network, 8, 8).engine == "crypten"


def test_the_clamp_of_the_covered_network_is_on_a_finer_grid_than_its_wire():
    plan = masked_plan(covered_layers(), 9, 13)
    formats = plan.lowered.formats
    assert (formats["mix"].frac_bits, formats["limited"].frac_bits) == (11, 14)
    assert {"limited|low|excess", "limited|high|excess"} <= set(items_of(plan))
