"""Both parties of the masked engine in one process: exact given the masks, flags seen alike, and one mask for each opening.

What a server sees is in tests/protocols/test_masked_views.py; processes and links are in tests/server.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import masked_dealing, masked_evaluation
from protocols.errors import LocalProtocolError, MaterialReusedError
from protocols.fixed_point import encode
from protocols.float_evaluation import evaluate_float
from protocols.identifiers import Role
from protocols.layers import LAYER_TYPES, Conv, Product, Scale
from protocols.masked_dealing import PartyMasks, Stream
from protocols.masked_evaluation import MaskedEvaluation
from protocols.masked_oracle import masked_oracle
from protocols.masked_plan import InputItem, WireItem, masked_plan
from protocols.network import IMAGE_WIRE, Network, WireRange
from protocols.oracle import evaluate_oracle, oracle_wires
from protocols.prg import Prg, derive_key
from protocols.shared_model import SharedModel
from protocols.truncation import flagged
from tests.protocols import joined_parties
from tests.protocols.covered_layers import RANGES, covered_layers, full_masks, items_of, opened_wires, oracle_of
from tests.protocols.every_layer import encoded_weights, image_of, truncation_bound, weights_of
from tests.protocols.joined_parties import QueueOpener, run_parties

SEED = bytes(range(32))
SIGMA = 25 * 65536 // 255
SIZES = [(8, 8), (9, 13), (8, 31), (33, 10), (64, 61)]
BOTH = pytest.mark.parametrize("conditioned", [True, False], ids=["sigma map", "no sigma map"])


def seed_of(number):
    return derive_key(SEED, number.to_bytes(4, "big"))


def evaluated(network, size, *, seed=SEED, image_seed=2, weight_seed=1, **options):
    """The run, and what the oracle says of it: the result, and each wire before truncation."""
    image, encoded = encode(image_of(*size, image_seed)), encoded_weights(network, weights_of(network, weight_seed))
    joined = run_parties(network, encoded, image, SIGMA, seed=seed, **options)
    return joined, *oracle_of(joined, encoded, image, SIGMA)


def check_exact(joined, expected, products):
    """The result bit for bit; every opened wire is y + r bit for bit; every y is within the bound that its flag assumes."""
    assert torch.equal(joined.output, expected)
    assert [joined.results[role].flags for role in Role] == [0, 0]
    opened, masks = opened_wires(joined), full_masks(joined)
    for name, item in items_of(joined.plan).items():
        if isinstance(item, WireItem):
            assert torch.equal(opened[name] - masks[name], products[name]), name
            assert int(products[name].abs().max()) < 1 << item.magnitude_bits, name


# --- the result ---


def test_the_network_has_every_layer_that_is_covered_and_a_range_for_each_wire():
    network = covered_layers()
    assert {type(layer) for layer in network.layers} == set(LAYER_TYPES.values())
    assert dict(network.ranges) == RANGES
    assert len({wire.frac_bits for wire in RANGES.values()}) > 8


@BOTH
@pytest.mark.parametrize("size", SIZES)
def test_exact_given_the_masks_at_any_size(size, conditioned):
    check_exact(*evaluated(covered_layers(conditioned=conditioned), size))


def test_exact_with_one_format_for_all_wires():
    check_exact(*evaluated(covered_layers(ranges={}), (17, 22)))


@pytest.mark.slow
@given(height=st.integers(8, 24), width=st.integers(8, 24), seed=st.integers(0, 2**31), image=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None, database=None)
def test_exact_given_the_masks_with_any_image_weights_and_material(height, width, seed, image):
    run = evaluated(covered_layers(), (height, width), seed=seed_of(seed), image_seed=image, weight_seed=seed)
    check_exact(*run)


@pytest.mark.slow
@given(
    formats=st.lists(st.tuples(st.integers(10, 20), st.integers(7, 9)), min_size=len(RANGES), max_size=len(RANGES)),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=10, deadline=None, database=None)
def test_exact_with_any_ranges(formats, seed):
    ranges = {name: WireRange(*wire) for name, wire in zip(RANGES, formats, strict=True)}
    joined, expected, _ = evaluated(covered_layers(ranges=ranges), (9, 10), seed=seed_of(seed))
    if not joined.results[Role.A].flags:
        assert torch.equal(joined.output, expected)


@pytest.mark.slow
@pytest.mark.parametrize("words", [1, 64, 300])
def test_blocks_of_any_size_give_the_same(monkeypatch, words):
    whole = evaluated(covered_layers(), (17, 22))[0]
    wires, count = opened_wires(whole), sum(map(len, whole.sent[Role.A]))
    monkeypatch.setattr(masked_evaluation, "BLOCK_WORDS", words)
    blocked, expected, products = evaluated(covered_layers(), (17, 22))
    check_exact(blocked, expected, products)
    assert torch.equal(blocked.output, whole.output)
    assert sum(map(len, blocked.sent[Role.A])) > count
    for name, opened in opened_wires(blocked).items():
        assert torch.equal(opened, wires[name]), name


@pytest.mark.parametrize("size", [(8, 8), (13, 29), (32, 16)])
def test_as_close_to_exact_arithmetic_and_to_the_general_oracle_as_truncation_allows(size):
    """Each truncation is off by less than one unit from what it truncates, as the general oracle's floor is; `truncation_bound`
    carries that unit through the network. So each is within the bound of exact arithmetic, and within two of the other.
    """
    network = covered_layers(ranges={}, thirds=False)
    image, weights = image_of(*size), weights_of(network)
    encoded = encoded_weights(network, weights)
    joined = run_parties(network, encoded, encode(image), SIGMA, seed=SEED)
    wires = oracle_wires(network, encoded, encode(image), SIGMA)
    bound = truncation_bound(network, weights, wires)["output"][:, : size[0], : size[1]]
    assert float(bound.max()) < 20
    precise = {name: weight.double() for name, weight in weights.items()}
    exact = evaluate_float(network, precise, image[None], torch.tensor([SIGMA / 65536], dtype=torch.double))[0]
    assert bool(((joined.output - exact * 65536).abs() <= bound).all())
    assert bool(((joined.output - evaluate_oracle(network, encoded, encode(image), SIGMA)).abs() <= 2 * bound).all())


@pytest.mark.slow
def test_two_materials_give_results_that_differ_by_carries_alone():
    network = covered_layers(ranges={}, thirds=False)
    first, second = (evaluated(network, (16, 16), seed=seed_of(number))[0] for number in range(2))
    assert not torch.equal(first.output, second.output)
    assert int((first.output - second.output).abs().max()) < 20
    floors = masked_oracle(
        first.plan,
        encoded_weights(network, weights_of(network)),
        encode(image_of(16, 16)),
        torch.full((1, 1, 1), SIGMA),
    )
    assert int((first.output - floors).abs().max()) < 20


def test_the_same_material_gives_the_same_words():
    first, second = (evaluated(covered_layers(), (9, 13))[0] for _ in range(2))
    for role in Role:
        assert torch.equal(first.results[role].share, second.results[role].share)
        blocks = zip(itertools.chain(*first.sent[role]), itertools.chain(*second.sent[role]), strict=True)
        assert all(torch.equal(one, other) for one, other in blocks)


def test_each_wire_is_sent_once_as_planned():
    joined, _, _ = evaluated(covered_layers(), (17, 22))
    plan = joined.plan
    for role in Role:
        assert [sum(map(torch.numel, blocks)) for blocks in joined.sent[role]] == [
            plan.opened_words(index) for index in range(plan.rounds)
        ]
    assert plan.sent_bytes == 8 * sum(map(torch.numel, joined.opened))
    assert [words.numel() * 8 for words in joined.corrections] == plan.correction_sizes
    assert {item.layer for item in plan.items if isinstance(item, InputItem)} == {IMAGE_WIRE, "noise level"}


# --- flags ---

# a product of two wires at 2^-20 with |value| < 2^20: the zone is 2^60 wide at both ends, one word in eight is flagged
WIDE = Network(
    (
        Scale("fine", IMAGE_WIRE, 1.0),
        Product("wide", "fine", "fine"),
        Scale("narrow", "wide", 0.5),
        Product("again", "narrow", "narrow"),
    ),
    ranges=(("again", WireRange(20, 20)), ("fine", WireRange(20, 2)), ("narrow", WireRange(20, -2)), ("wide", WireRange(20, 20))),
)


def flagged_wires(joined):
    opened = opened_wires(joined)
    wires = [item for item in joined.plan.items if isinstance(item, WireItem)]
    return [item.layer for item in wires if flagged(opened[item.layer], item.magnitude_bits)]


def test_both_parties_see_the_same_flags_where_a_range_is_too_wide():
    joined, _, _ = evaluated(WIDE, (8, 8))
    assert items_of(joined.plan)["wide"].magnitude_bits == 60
    assert joined.plan.expected_flags > 10
    assert flagged_wires(joined) == ["wide", "again"]
    assert [joined.results[role].flags for role in Role] == [2, 2]


def test_a_flag_says_nothing_about_the_image():
    """C is y + r with one r for both images here: each is flagged in its own places, in as many."""
    counts = []
    for image_seed in (2, 3):
        joined, _, _ = evaluated(WIDE, (64, 64), image_seed=image_seed)
        opened = opened_wires(joined)["wide"]
        counts.append(int(((opened >= 2**63 - 2**60) | (opened < -(2**63) + 2**60)).sum()))
    assert counts == pytest.approx([512, 512], abs=110)  # of 4096 words each with 1/8: five standard deviations


@pytest.mark.slow
def test_what_is_wrong_is_flagged():
    """With y = 2^51.5 where 2^52 is allowed, one word in 6,000 of 12,800 wraps: whatever is off by a unit or more has a flag."""
    network = Network((Product("square", IMAGE_WIRE, IMAGE_WIRE),), ranges=(("square", WireRange(8, 20)),))
    image = torch.full((1, 8, 8), 21 << 21)  # 1.7 * 2^25: beyond what a client may send
    y = int(image[0, 0, 0]) ** 2
    assert 1 << 50 < y < 1 << 52 == 1 << items_of(masked_plan(network, 8, 8))["square"].magnitude_bits
    outcomes = set()
    for number in range(200):
        joined = run_parties(network, {}, image, 0, seed=seed_of(number))
        wrong = int((joined.output - (y >> 24)).abs().max()) > 1
        flags = joined.results[Role.A].flags
        assert flags or not wrong
        outcomes.add((wrong, flags))
        assert torch.equal(joined.output, oracle_of(joined, {}, image, 0)[0])  # the oracle follows the engine where it wraps too
    assert outcomes >= {(False, 0), (True, 1)}


@pytest.mark.parametrize("target", [2**63 - 1, -(2**63)])
def test_corrections_that_were_replaced_can_force_a_flag_and_both_report_it(target):
    """B's share of one mask is off by what drives the next opening into the zone: c moves by the correction times -delta."""
    network = Network((Scale("s", IMAGE_WIRE, 1.0), Conv("c", "s", 1, 1, bias=False)), weight_frac_bits=12)
    encoded = encoded_weights(network, weights_of(network))
    image = encode(image_of(8, 8))
    for number in range(64):
        honest = run_parties(network, encoded, image, 0, seed=seed_of(number))
        delta = int(encoded["c.weight"]) - int(honest.weight_masks["c.weight"])
        if delta % 2:
            break
    assert honest.results[Role.A].flags == 0
    opened = int(opened_wires(honest)["c"][0, 3, 4])
    error = (opened - target) * pow(delta, -1, 1 << 64) % (1 << 64)
    replaced = [words.clone() for words in honest.corrections]
    replaced[0][0, 3, 4] += error - (1 << 64) if error >= 1 << 63 else error
    forced = run_parties(network, encoded, image, 0, seed=seed_of(number), replace=replaced)
    assert int(opened_wires(forced)["c"][0, 3, 4]) == target
    assert [forced.results[role].flags for role in Role] == [1, 1]


def test_an_input_raises_no_flag():
    """It is not truncated, so nothing can go wrong with it, whatever is opened."""
    image = torch.full((1, 8, 8), 2**63 - 1)
    network = Network((Scale("s", IMAGE_WIRE, 0.0),))
    assert run_parties(network, {}, image, 0, seed=SEED).results[Role.A].flags == 0


# --- one mask for each opening ---


class CountedPrg(Prg):
    """Writes down every stream that is expanded."""

    used: "list[tuple[bytes, int, int]]"

    def reader(self, label, kind):
        self.used.append((self.key, label, int(kind)))
        return super().reader(label, kind)


def test_every_opening_has_a_fresh_mask_of_its_own_counted(monkeypatch):
    """Each party expands each of its streams once: e and its share of the mask for each wire; B is sent the latter."""
    monkeypatch.setattr(CountedPrg, "used", [], raising=False)
    monkeypatch.setattr(masked_dealing, "Prg", CountedPrg)
    joined, _, _ = evaluated(covered_layers(), (9, 13))
    plan = joined.plan
    assert [item.number for item in sorted(plan.items, key=lambda item: item.number)] == list(range(len(plan.items)))
    dealer_and_party = 2
    for role in Role:
        streams = [(label, kind) for key, label, kind in CountedPrg.used if key == joined.seeds[role]]
        expected = {(item.number, int(Stream.OPENING)) for item in plan.items}
        if role is Role.A:
            expected |= {(item.number, Stream.DEALT + place) for item in plan.items for place in range(len(item.dealt_shapes))}
        assert set(streams) == expected
        assert {streams.count(stream) for stream in expected} == {dealer_and_party}
    assert joined.seeds[Role.A] != joined.seeds[Role.B]
    assert len(plan.items) == len(opened_wires(joined)) == len(full_masks(joined))


def test_nothing_is_expanded_once_the_image_is_there(monkeypatch):
    """A server runs on what `prepare` has left: without its seed, and without the dealer's corrections."""
    run, seedless = MaskedEvaluation.run, []

    def without_masks(evaluation, *arguments):
        del evaluation._masks
        seedless.append(evaluation)
        return run(evaluation, *arguments)

    monkeypatch.setattr(MaskedEvaluation, "run", without_masks)
    check_exact(*evaluated(covered_layers(), (9, 13)))
    assert len(seedless) == 2
    for evaluation in seedless:
        assert evaluation._addends == evaluation._factors == {}  # and all of it was used
        assert evaluation._relus == evaluation._kernels == {}


def test_the_line_is_busy_while_the_next_block_is_computed(monkeypatch):
    """Two blocks are sent before the first is received, and of a message that is longer, one goes before each that comes."""
    monkeypatch.setattr(masked_evaluation, "BLOCK_WORDS", 13)
    order = []

    class Ordered(QueueOpener):
        def begin(self, index, words):
            order.append("")
            super().begin(index, words)

        def send(self, block):
            order[-1] += "s"
            super().send(block)

        def receive(self, shape):
            order[-1] += "r"
            return super().receive(shape)

    half = iter([Ordered, QueueOpener])  # of one party: the other's would be written in between
    monkeypatch.setattr(joined_parties, "QueueOpener", lambda *queues: next(half)(*queues))
    check_exact(*evaluated(Network((Scale("half", IMAGE_WIRE, 0.5),)), (9, 13)))
    assert order == ["sss" + "rs" * 6 + "rrr"] * 2


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", [IMAGE_WIRE, "widen", "gate", "scaled", "rectified/bits", "rectified/sign", "rectified"])
def test_no_mask_is_given_out_twice(role, name):
    item = items_of(masked_plan(covered_layers(), 9, 13))[name]
    count = len(item.dealt_shapes)
    masks = PartyMasks(role, SEED, iter([torch.zeros(shape, dtype=torch.int64) for shape in item.dealt_shapes * 2]))
    masks.opening(item)
    for place in range(count):
        masks.dealt(item, place)
    with pytest.raises(MaterialReusedError, match=f"{item.layer}: stream 0 of item {item.number} has been used"):
        masks.opening(item)
    for place in range(count):
        with pytest.raises(MaterialReusedError, match=f"{item.layer}: stream {1 + place} of item"):
            masks.dealt(item, place)
    assert repr(masks) == f"PartyMasks(role={role.value}, taken={1 + count})"


@pytest.mark.parametrize("corrections", [[], [torch.zeros(1, 8, 9, dtype=torch.int64)]], ids=["none", "another shape"])
def test_a_correction_that_is_missing_or_of_another_shape_is_refused(corrections):
    item = items_of(masked_plan(covered_layers(), 9, 13))["widen"]
    with pytest.raises(LocalProtocolError, match="widen: the dealer's correction has not arrived"):
        PartyMasks(Role.B, SEED, iter(corrections)).dealt(item)


class NoOpener:
    def begin(self, index, words):
        raise AssertionError("nothing may be opened")

    send = receive = begin


def one_party():
    network = Network((Scale("s", IMAGE_WIRE, 0.5),))
    plan = masked_plan(network, 8, 8)
    return MaskedEvaluation(Role.A, plan, SharedModel(network, {}, {}), PartyMasks(Role.A, SEED, iter(())))


def test_an_evaluation_is_prepared_once_and_runs_once():
    image, sigma = torch.zeros(1, 8, 8, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64)
    evaluation = one_party()
    with pytest.raises(LocalProtocolError, match="not prepared, or has run"):
        evaluation.run(image, sigma, NoOpener())
    evaluation.prepare()
    with pytest.raises(MaterialReusedError, match="image: stream 0 of item 0 has been used"):
        evaluation.prepare()
    with pytest.raises(AssertionError, match="nothing may be opened"):
        evaluation.run(image, sigma, NoOpener())
    with pytest.raises(LocalProtocolError, match="not prepared, or has run"):  # a failure burns it too
        evaluation.run(image, sigma, NoOpener())


def test_neither_masks_nor_evaluation_nor_result_are_printed():
    evaluation = one_party()
    evaluation.prepare()
    joined, _, _ = evaluated(covered_layers(), (8, 8))
    for held in (evaluation, joined.results[Role.A], replace(joined.results[Role.A], flags=3)):
        assert "tensor" not in repr(held)
