"""Correlated randomness: right in every kind, uniform in each half, fresh for each material, taken once and in order.

Error rate: the statistical tests compare a chi-square statistic with its quantile at 1e-6, over injected seeds; so they are
deterministic, and a correct implementation had this probability of failing when the seeds were chosen.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import dealing, ring
from protocols.dealing import PartyMaterial, Stream, corrections, push_seed, session_seed, weight_mask_share
from protocols.errors import LocalProtocolError, MaterialReusedError
from protocols.identifiers import MaterialId, PushId, Role
from protocols.layers import Conv, Gate, Relu
from protocols.network import IMAGE_WIRE, Network
from protocols.plan import AndTriple, ProductTriple, SharedBit, WeightTriple, masked_weights, plan_for
from protocols.prg import derive_key
from tests.protocols.every_layer import EVERY_LAYER
from tests.protocols.test_sharing import ERROR_RATE, uniformity_p_value

PLAN = plan_for(EVERY_LAYER, 9, 13)
MASTER = bytes(range(32))
MATERIAL, PUSH = MaterialId("a" * 32), PushId("b" * 32)
hex_digits = st.text("0123456789abcdef", min_size=32, max_size=32)
quick = settings(max_examples=60, deadline=None, database=None)


def seeds_of(material=MATERIAL, context=b"context"):
    return {role: session_seed(MASTER, role, material, context) for role in Role}


def masks_of(plan=PLAN, network=EVERY_LAYER):
    seeds = [push_seed(MASTER, role, PUSH, plan.network_digest) for role in Role]
    shapes = masked_weights(network, plan.height, plan.width)
    return {
        name: sum(weight_mask_share(seed, position, shape) for seed in seeds)
        for position, (name, shape) in enumerate(shapes.items())
    }


def dealt(plan=PLAN, network=EVERY_LAYER, seeds=None):
    """Both servers' halves, as they would hold them."""
    seeds = seeds or seeds_of()
    halves = {role: PartyMaterial(role, plan, seeds[role]) for role in Role}
    for index, words in corrections(plan, seeds[Role.A], seeds[Role.B], masks_of(plan, network)):
        halves[Role.B].correct(index, words)
    return halves


def taken(halves, plan=PLAN):
    """All correlations of both halves, in order: (item, share of A, share of B)."""
    out = []
    for item in plan.correlations:
        (_, _, a), (_, _, b) = (halves[role].take(type(item)) for role in Role)
        out.append((item, a, b))
    return out


def check(item, a, b, masks):
    """The relation that the shares of A and B must have."""
    match item:
        case WeightTriple():
            assert torch.equal(a.c + b.c, ring.conv2d(a.a + b.a, masks[item.weight], item.geometry))
            assert a.b is None
        case ProductTriple():
            assert torch.equal(a.c + b.c, (a.a + b.a) * (a.b + b.b))
        case AndTriple():
            assert torch.equal(a.c ^ b.c, (a.a ^ b.a) & (a.b ^ b.b))
        case SharedBit():
            bit = a.a ^ b.a
            assert set(torch.cat([a.a, b.a]).unique().tolist()) == {0, 1}
            assert torch.equal(a.c + b.c, bit)


def test_every_correlation_is_right():
    masks = masks_of()
    kinds = set()
    for item, a, b in taken(dealt()):
        check(item, a, b, masks)
        assert tuple(a.a.shape) == item.a_shape
        assert tuple(a.c.shape) == tuple(b.c.shape) == item.c_shape
        kinds.add(type(item))
    assert kinds == {WeightTriple, ProductTriple, AndTriple, SharedBit}


@given(material=hex_digits, context=st.binary(max_size=8))
@settings(quick, max_examples=8)
def test_correlations_are_right_for_any_material(material, context):
    network = Network((Conv("c", IMAGE_WIRE, 2, 3, padding=1), Gate("g", "c"), Relu("r", "g")))
    plan = plan_for(network, 8, 9)
    halves = dealt(plan, network, seeds_of(MaterialId(material), context))
    for item, a, b in taken(halves, plan):
        check(item, a, b, masks_of(plan, network))


def test_a_wrong_correction_breaks_the_relation():
    halves = dealt()
    halves[Role.B]._c[0][0, 0, 0] += 1
    item, a, b = taken(halves)[0]
    with pytest.raises(AssertionError):
        check(item, a, b, masks_of())


def test_vector():
    # computed with HMAC-SHA256 and AES-256-ECB over the counter blocks, not with protocols.prg or protocols.dealing
    network = Network((Conv("c", IMAGE_WIRE, 2, 1), Gate("g", "c")))
    plan = plan_for(network, 8, 8)
    halves = dealt(plan, network)
    (weight, wa, wb), (gate, ga, gb) = taken(halves, plan)
    found = [int(tensor.flatten()[0]) for tensor in (wa.a, wb.a, wa.c, wb.c, ga.a, gb.b, ga.c, gb.c)]
    assert found == [
        1527903688428093459,
        1057541973962567420,
        7243921064481305795,
        3156704756049379885,
        -7183294817870923810,
        3522280858207711896,
        -434978048420417164,
        -4910765006802338012,
    ]


# --- what each server learns from its half ---


def test_each_half_alone_is_uniform():
    """B's corrections are c - c_A: uniform because A's stream of c is. A holds streams only."""
    network = Network((Conv("c", IMAGE_WIRE, 8, 3, padding=1), Gate("g", "c"), Relu("r", "g")))
    plan = plan_for(network, 64, 64)
    for _, words in corrections(plan, *seeds_of().values(), masks_of(plan, network)):
        assert uniformity_p_value(words) > ERROR_RATE
    halves = dealt(plan, network)
    for item, a, b in taken(halves, plan):
        for share in (a, b):
            assert uniformity_p_value(share.c) > ERROR_RATE
            if not isinstance(item, SharedBit):
                assert uniformity_p_value(share.a) > ERROR_RATE
            else:  # binomial: 16,384 fair bits lie within 5 standard deviations but for 6e-7
                assert abs(share.a.double().mean() - 0.5) < 5 * 0.5 / share.a.numel() ** 0.5


def test_the_uniformity_test_finds_a_correction_without_its_mask(monkeypatch):
    network = Network((Conv("c", IMAGE_WIRE, 2, 1), Relu("r", "c")))
    plan = plan_for(network, 64, 64)
    streams = dealing.Prg.words

    def without_c(prg, label, kind, shape):
        words = streams(prg, label, kind, shape)
        return torch.zeros_like(words) if kind == Stream.C else words

    monkeypatch.setattr(dealing.Prg, "words", without_c)
    found = {
        plan.correlations[index].wire: uniformity_p_value(words)
        for index, words in corrections(plan, *seeds_of().values(), masks_of(plan, network))
    }
    assert found["r/sign"] < ERROR_RATE  # bits
    assert found["r/generate"] < ERROR_RATE  # a & b: three zeros to one
    assert found["r/select"] < ERROR_RATE  # products: even three times in four


def test_no_two_tensors_of_one_half_share_a_word():
    """A label or kind used twice would give two tensors one mask. 64-bit words: a chance repetition has odds of 1e-11."""
    for role in Role:
        words = [tensor.flatten() for _, *pair in taken(dealt()) for tensor in _full_words(pair[role.party])]
        words += [mask.flatten() for mask in _own_masks(role)]
        flat = torch.cat(words)
        assert flat.numel() > 10_000
        assert flat.unique().numel() == flat.numel()


def _full_words(triple):
    tensors = [triple.c] + [tensor for tensor in (triple.a, triple.b) if tensor is not None]
    return [tensor for tensor in tensors if int(tensor.max()) > 1]  # not the single bits


def _own_masks(role):
    seed = push_seed(MASTER, role, PUSH, EVERY_LAYER.digest)
    return [weight_mask_share(seed, i, shape) for i, shape in enumerate(masked_weights(EVERY_LAYER, 9, 13).values())]


def test_weight_masks_do_not_depend_on_the_size_of_the_image():
    """One push serves every size: its masks, opened once, must be the same words."""
    small, large = (masks_of(plan_for(EVERY_LAYER, *size)) for size in ((8, 8), (40, 24)))
    assert all(torch.equal(small[name], large[name]) for name in small)


bindings = st.tuples(st.sampled_from(list(Role)), hex_digits, st.binary(max_size=4))


@given(first=bindings, second=bindings)
@quick
def test_seeds_differ_in_role_identifier_and_context(first, second):
    seeds = [session_seed(MASTER, role, MaterialId(name), context) for role, name, context in (first, second)]
    assert (seeds[0] == seeds[1]) == (first == second)
    pushes = [push_seed(MASTER, role, PushId(name), context) for role, name, context in (first, second)]
    assert (pushes[0] == pushes[1]) == (first == second)
    assert not set(seeds) & set(pushes)


def test_seeds_depend_on_the_dealers_key():
    assert session_seed(bytes(32), Role.A, MATERIAL, b"") != session_seed(MASTER, Role.A, MATERIAL, b"")
    assert push_seed(bytes(32), Role.A, PUSH, b"") != push_seed(MASTER, Role.A, PUSH, b"")


# --- taken once, in order ---


def test_past_the_end_is_reuse():
    halves = dealt()
    taken(halves)
    for half in halves.values():
        with pytest.raises(MaterialReusedError, match="used up"):
            half.take(WeightTriple)


@pytest.mark.parametrize("wrong", [ProductTriple, AndTriple, SharedBit])
def test_another_kind_than_planned_is_refused_and_takes_nothing(wrong):
    half = dealt()[Role.A]
    with pytest.raises(LocalProtocolError, match=f"asked for {wrong.__name__}"):
        half.take(wrong)
    assert half.take(WeightTriple)[0] == 0


def test_indices_count_up():
    half = dealt()[Role.B]
    assert [half.take(type(item))[0] for item in PLAN.correlations] == list(range(len(PLAN.correlations)))


def test_a_correction_twice_is_refused():
    half = dealt()[Role.B]
    with pytest.raises(MaterialReusedError, match="correction 0 is not expected by server B"):
        half.correct(0, torch.zeros(PLAN.correlations[0].c_shape, dtype=torch.int64))


def test_a_correction_after_use_is_refused():
    half = dealt()[Role.B]
    half.take(WeightTriple)
    with pytest.raises(MaterialReusedError, match="correction 0"):
        half.correct(0, torch.zeros(PLAN.correlations[0].c_shape, dtype=torch.int64))


def test_server_a_takes_no_corrections():
    with pytest.raises(MaterialReusedError, match="not expected by server A"):
        dealt()[Role.A].correct(0, torch.zeros(1, dtype=torch.int64))


def test_server_b_needs_its_correction():
    half = PartyMaterial(Role.B, PLAN, seeds_of()[Role.B])
    with pytest.raises(LocalProtocolError, match="correction 0 has not arrived"):
        half.take(WeightTriple)


def test_what_is_computed_ahead_is_added_once():
    plain, ahead = dealt(), dealt()
    addend = torch.arange(PLAN.correlations[0].c_shape[0] * 48).view(PLAN.correlations[0].c_shape)
    for role in Role:
        assert torch.equal(ahead[role].a_share(0), ahead[role].a_share(0))
        ahead[role].fold(0, addend)
        first, second = plain[role].take(WeightTriple)[2], ahead[role].take(WeightTriple)[2]
        assert torch.equal(second.c, first.c + addend)
        assert torch.equal(second.a, first.a)
        with pytest.raises(MaterialReusedError, match="correlation 0 has been used"):
            ahead[role].fold(0, addend)
        with pytest.raises(MaterialReusedError, match="correlation 0 has been used"):
            ahead[role].a_share(0)


def test_nothing_prints_what_is_dealt():
    half = dealt()[Role.B]
    triple = half.take(WeightTriple)[2]
    for value in (half, triple):
        assert "tensor" not in repr(value)
        assert str(int(triple.a.flatten()[0])) not in repr(value)
    assert derive_key(MASTER, b"x").hex() not in repr(half)
    assert repr(half) == f"PartyMaterial(role=B, next=1/{len(PLAN.correlations)})"
