"""The dealing plan: what it lists for each layer, what its digest binds, and its costs."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import NetworkDescriptionError
from protocols.identifiers import PushId
from protocols.layers import Conv, Gate, MaxPool, Relu
from protocols.network import IMAGE_WIRE, Network
from protocols.plan import (
    AndTriple,
    Plan,
    ProductTriple,
    SharedBit,
    WeightTriple,
    masked_weights,
    plan_for,
    session_context,
    tournament,
)
from protocols.ring import ConvGeometry
from tests.protocols.every_layer import EVERY_LAYER

PLAN = plan_for(EVERY_LAYER, 9, 13)
quick = settings(max_examples=25, deadline=None, database=None)


def kinds(plan):
    return [(type(item).__name__, item.wire, item.a_shape) for item in plan.correlations]


def relu_kinds(wire, shape):
    batched = (1, *shape)
    return [
        ("AndTriple", f"{wire}/generate", batched),
        *(("AndTriple", f"{wire}/carry{level}", (2, *batched)) for level in range(6)),
        ("SharedBit", f"{wire}/sign", shape),
        ("ProductTriple", f"{wire}/select", shape),
    ]


def test_plan_vector():
    assert kinds(PLAN) == [
        ("WeightTriple", "widen", (5, 6, 8)),
        ("WeightTriple", "filter", (8, 6, 8)),
        ("ProductTriple", "gate", (4, 6, 8)),
        ("WeightTriple", "attention", (4, 1, 1)),
        ("ProductTriple", "attended", (4, 6, 8)),
        ("WeightTriple", "half", (4, 6, 8)),
        *relu_kinds("rectified", (6, 3, 4)),
        *relu_kinds("largest/0", (8, 3, 4)),
        *relu_kinds("largest/1", (4, 3, 4)),
        ("WeightTriple", "mix", (10, 3, 4)),
        *relu_kinds("limited", (8, 3, 4)),
        ("ProductTriple", "square", (4, 3, 4)),
        ("WeightTriple", "expand", (4, 3, 4)),
    ]


def test_shapes_of_one_of_each_kind():
    by_wire = {item.wire: item for item in PLAN.correlations}
    assert by_wire["half"] == WeightTriple("half", "half.weight", (6, 2, 3, 3), (4, 6, 8), (6, 3, 4), ConvGeometry(2, 1, 1, 2))
    assert by_wire["attention"] == WeightTriple(
        "attention", "attention.weight", (4, 4, 1, 1), (4, 1, 1), (4, 1, 1), ConvGeometry()
    )
    assert by_wire["attended"] == ProductTriple("attended", (4, 6, 8), (4, 1, 1))
    assert by_wire["attended"].opened_shapes == ((4, 6, 8), (4, 1, 1))
    assert by_wire["rectified/carry0"].opened_shapes == ((2, 1, 6, 3, 4),) * 2
    assert by_wire["rectified/sign"].opened_shapes == ((6, 3, 4),)


def test_costs_by_hand():
    network = Network((Conv("c", IMAGE_WIRE, 4, 3, padding=1), Gate("g", "c"), Conv("o", "g", 1, 1)))
    plan = plan_for(network, 10, 9)
    pixels = 90
    assert [plan.opened_words(i) for i in range(3)] == [pixels, 2 * 2 * pixels, 2 * pixels]
    assert [plan.correction_bytes(i) for i in range(3)] == [4 * 8 * pixels, 2 * 8 * pixels, 8 * pixels]
    assert plan.sent_bytes == 7 * 8 * pixels
    assert plan.dealt_bytes == 7 * 8 * pixels


def test_cost_of_relu_as_stated():
    # DESIGN section 6: stock CrypTen's comparison takes 9 rounds and 232 B sent per element; less 8 B of SharedBit words
    plan = plan_for(Network((Relu("r", IMAGE_WIRE),)), 8, 8)
    assert len(plan.correlations) == 9
    assert plan.sent_bytes / 64 == 16 + 6 * 32 + 8 + 16 == 232


@given(candidates=st.integers(1, 5000))
@quick
def test_a_knock_out_has_one_comparison_less_than_candidates(candidates):
    levels = list(tournament(candidates))
    assert sum(levels) == candidates - 1
    assert len(levels) == math.ceil(math.log2(candidates))


@given(height=st.integers(8, 64), width=st.integers(8, 64))
@quick
def test_derived_twice_it_is_the_same_and_sizes_count(height, width):
    plan = plan_for(EVERY_LAYER, height, width)
    assert plan == plan_for(Network.from_json(EVERY_LAYER.to_json()), height, width)
    assert plan.digest == plan_for(EVERY_LAYER, height, width).digest
    assert plan.sent_bytes == 8 * sum(plan.opened_words(i) for i in range(len(plan.correlations)))
    assert masked_weights(EVERY_LAYER, height, width) == masked_weights(EVERY_LAYER, 64, 64)


def test_the_digest_binds_everything():
    relu = Network((MaxPool("m", IMAGE_WIRE, 2),))
    plans = [
        PLAN,
        plan_for(EVERY_LAYER, 13, 9),
        plan_for(EVERY_LAYER, 10, 13),  # the same padded size, so the same shapes
        plan_for(dataclasses.replace(EVERY_LAYER, weight_frac_bits=11), 9, 13),
        plan_for(relu, 8, 8),
        dataclasses.replace(PLAN, correlations=PLAN.correlations[:-1]),
        dataclasses.replace(PLAN, correlations=PLAN.correlations[::-1]),
        dataclasses.replace(PLAN, correlations=(dataclasses.replace(PLAN.correlations[0], wire="x"), *PLAN.correlations[1:])),
        dataclasses.replace(PLAN, network_digest=bytes(32)),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)


def test_digest_vector():
    # two releases whose plans differ must not work together; then this value changes, on purpose
    correlations = (
        WeightTriple("c", "c.weight", (2, 1, 3, 3), (1, 8, 8), (2, 8, 8), ConvGeometry(1, 1, 1, 1)),
        ProductTriple("p", (2, 8, 8), (2, 1, 1)),
        AndTriple("a", (1, 2, 8, 8)),
        SharedBit("b", (2, 8, 8)),
    )
    assert (
        Plan(bytes(range(32)), 8, 9, correlations).digest.hex()
        == "99cb4f5fe939fb7c28a05ca3eab29c8c10e3f5097f9fb2b41b855cfe3fdbda3f"
    )


def test_a_network_that_does_not_fit_has_no_plan():
    with pytest.raises(NetworkDescriptionError, match="at least 8 pixels"):
        plan_for(EVERY_LAYER, 7, 8)


def test_masked_weights_are_the_convolutions_in_plan_order():
    masked = masked_weights(EVERY_LAYER, 9, 13)
    assert list(masked) == [f"{name}.weight" for name in ("widen", "filter", "attention", "half", "mix", "expand")]
    assert masked["attention.weight"] == (4, 4, 1, 1)


def test_session_material_is_bound_to_push_plan_and_both_runs():
    boots = "a" * 32, "b" * 32
    other = plan_for(EVERY_LAYER, 10, 13)
    contexts = [
        session_context(PushId("1" * 32), PLAN.digest, *boots),
        session_context(PushId("2" * 32), PLAN.digest, *boots),
        session_context(PushId("1" * 32), other.digest, *boots),
        session_context(PushId("1" * 32), PLAN.digest, "c" * 32, boots[1]),
        session_context(PushId("1" * 32), PLAN.digest, boots[0], "c" * 32),
        session_context(PushId("1" * 32), PLAN.digest, *reversed(boots)),
    ]
    assert len(set(contexts)) == len(contexts)
