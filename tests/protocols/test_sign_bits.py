"""The comparison circuit by itself: the sign of every pair of narrow words, of edges of wide ones, and what it costs."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from protocols.bit_planes import bit_planes, unpacked
from protocols.errors import NetworkDescriptionError
from protocols.layers import Relu, Scale
from protocols.masked_plan import LEAST_SIGN_BITS, MAX_SIGN_BITS, MaskedPlan, ReluBitsItem, masked_plan
from protocols.network import IMAGE_WIRE, Network, WireRange
from protocols.prg import Prg
from protocols.sign_bits import BLOCK_BITS, SignBits

DOCUMENT = Path(__file__).parents[2] / "docs/engine.md"
SIDE = 64  # an image of 4096 pixels: whole words of packed bits, as the table's bytes for one element assume
SPECIFIED_BYTES = 50  # dealt for a ReLU at most
WIDTHS = range(LEAST_SIGN_BITS, MAX_SIGN_BITS + 1)


def opened_signs(bits: int, public: Tensor, mask: Tensor, *, seed: int = 0, spoilt: int | None = None) -> Tensor:
    """Dealer and both servers by the module's docstring, in one place: a bit for each x = D - l, 1 where it is negative.

    spoilt: a dealt product of mask bits that is dealt wrong.
    """
    circuit, prg = SignBits(bits), Prg(bytes([seed]) * 32)

    def split(planes: Tensor, label: int) -> tuple[Tensor, Tensor]:
        own = prg.words(label, 0, tuple(planes.shape))
        return own, planes ^ own

    public_planes, mask_planes = bit_planes(public, bits), bit_planes(mask, bits)
    bit_products = split(circuit.products(mask_planes, circuit.bit_products), 0)
    opening_masks = prg.words(1, 0, (circuit.masked_bits, public_planes.shape[1]))
    pairs = circuit.products(opening_masks, circuit.mask_pairs)
    if spoilt is not None:
        pairs[spoilt] = ~pairs[spoilt]
    mask_products, masks = split(pairs, 2), split(opening_masks, 3)
    parties = (0, 1)
    shares = [circuit.block_bits(public_planes, bit_products[party], party == 0) ^ masks[party] for party in parties]
    opened = shares[0] ^ shares[1]
    borrow = [circuit.borrow(opened, masks[party], mask_products[party], party == 0) for party in parties]
    top = bit_products[0][-1] ^ bit_products[1][-1] ^ public_planes[-1]
    return unpacked(borrow[0] ^ borrow[1] ^ top, public.numel())


def negative(bits: int, public: Tensor, mask: Tensor) -> Tensor:
    """By the definition: the top one of the lowest `bits` bits of D - l."""
    return ((public - mask) >> (bits - 1) & 1).to(torch.uint8)


# --- the sign ---


@pytest.mark.parametrize("bits", [6, 7, 8, 9])
def test_all_pairs_of_words(bits):
    """Every D with every l, so every x as well; the highest block has one, two, three and four bits."""
    assert len(SignBits(bits).blocks[-1]) == bits - 5
    every = torch.arange(1 << bits)
    public, mask = every.repeat_interleave(1 << bits), every.repeat(1 << bits)
    found = opened_signs(bits, public, mask)
    assert torch.equal(found, negative(bits, public, mask))
    x = (public - mask + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))  # in two's complement
    assert torch.equal(found.bool(), x < 0)


@pytest.mark.parametrize("bits", WIDTHS)
def test_edges_of_every_width_under_any_mask(bits):
    """Both ends of the range, zero, every power of two and its neighbours, under masks of 64 bits, which wrap around as well."""
    top = 1 << (bits - 1)
    ends = {-top, -top + 1, top - 1, 0, 1, -1}
    near = {sign * (1 << place) + step for place in range(bits - 1) for sign in (1, -1) for step in (-1, 0, 1)}
    x = torch.tensor(sorted(value for value in ends | near if -top <= value < top))
    masks = torch.cat([Prg(bytes(32)).words(9, 0, (30,)), x, torch.tensor([2**63 - 1, -(2**63)])])
    values, mask = x.repeat_interleave(len(masks)), masks.repeat(len(x))
    assert torch.equal(opened_signs(bits, values + mask, mask, seed=bits).bool(), values < 0)


@pytest.mark.parametrize("bits", [10, pytest.param(21, marks=pytest.mark.slow), pytest.param(33, marks=pytest.mark.slow)])
def test_every_dealt_product_of_masks_counts(bits):
    """Each, dealt wrong, spoils some sign: so none is dealt for nothing, and the tests above would see one that is missing."""
    circuit = SignBits(bits)
    mask = Prg(bytes(32)).words(9, 0, (4096,))
    x = (Prg(bytes(32)).words(10, 0, (4096,)) >> (64 - bits)) >> torch.arange(bits).repeat(4096 // bits + 1)[:4096]
    truth = negative(bits, x + mask, mask)
    for spoilt in range(0, len(circuit.mask_pairs), max(1, len(circuit.mask_pairs) // 30)):
        assert not torch.equal(opened_signs(bits, x + mask, mask, spoilt=spoilt), truth), circuit.mask_pairs[spoilt]


def test_a_value_beyond_the_range_has_the_wrong_sign():
    """The stated limit: |x| < 2^(k-1). Nothing tells."""
    values = torch.tensor([1 << 8, (1 << 8) - 1, -(1 << 8), -(1 << 8) - 1])
    mask = Prg(bytes(32)).words(9, 0, (4,))
    assert opened_signs(9, values + mask, mask).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("bits", WIDTHS)
def test_blocks_cover_every_bit_below_the_sign_once(bits):
    blocks = SignBits(bits).blocks
    assert [place for block in blocks for place in block] == list(range(bits - 1))
    assert {len(block) for block in blocks[:-1]} == {BLOCK_BITS}
    assert 1 <= len(blocks[-1]) <= BLOCK_BITS


# --- what it costs ---


def relu_plan(bits: int) -> MaskedPlan:
    """A ReLU of a wire that has `bits` with its sign and its carry; the wire is what a scale writes."""
    wire = WireRange(min(16, bits + 6), bits - 2 - min(16, bits + 6))
    return masked_plan(Network((Scale("source", IMAGE_WIRE, 1.0), Relu("r", "source")), ranges=(("source", wire),)), SIDE, SIDE)


def relu_costs(bits: int) -> tuple[float, int, float]:
    """Bytes sent with both wires, rounds of these, and bytes dealt to B without the source's own, for each element."""
    plan = relu_plan(bits)
    assert {item.bits for item in plan.items if isinstance(item, ReluBitsItem)} == {bits}
    sent = sum(item.words for item in plan.items if item.layer != IMAGE_WIRE) * 8
    dealt = sum(shape[0] * shape[1] * shape[2] for item in plan.items if item.layer == "r" for shape in item.dealt_shapes) * 8
    assert (sent, dealt + 8 * SIDE**2) == (plan.sent_bytes - 8 * SIDE**2, plan.dealt_bytes)
    return sent / SIDE**2, plan.rounds - 1, dealt / SIDE**2


def stated() -> dict[int, list[float]]:
    """The table of docs/engine.md: blocks, sent, dealt without and with the source's own, by width."""
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([\d.]+) B \| ([\d.]+) B \| ([\d.]+) B \|$", text, re.MULTILINE)
    return {int(row[0]): [float(value) for value in row[1:]] for row in rows}


def test_the_table_says_what_the_plan_says():
    table = stated()
    assert {13, 17, 20, 21, 25, 27, 28, 29, 33} <= set(table)
    for bits, (blocks, sent, alone, whole) in table.items():
        found_sent, rounds, found_dealt = relu_costs(bits)
        assert (blocks, sent, rounds) == (len(SignBits(bits).blocks), found_sent, 4), bits
        assert (alone, whole) == (pytest.approx(found_dealt, abs=0.051), pytest.approx(found_dealt + 8, abs=0.051)), bits


@pytest.mark.parametrize("bits", WIDTHS)
def test_no_width_sends_more_than_18_bytes_or_takes_more_than_4_rounds(bits):
    sent, rounds, dealt = relu_costs(bits)
    assert sent <= 18
    assert rounds == 4
    assert (dealt <= SPECIFIED_BYTES) == (bits <= 27)  # as docs/engine.md states; with the source's own 8 bytes up to 25
    assert (dealt + 8 <= SPECIFIED_BYTES) == (bits <= 25)


def test_a_wider_comparison_has_no_plan():
    with pytest.raises(NetworkDescriptionError, match="a comparison of 34 bits; at most 33 are supported"):
        relu_plan(34)


def test_a_narrower_one_is_widened_to_two_blocks():
    wire = WireRange(8, -8)
    plan = masked_plan(Network((Scale("s", IMAGE_WIRE, 1.0), Relu("r", "s")), ranges=(("s", wire),)), 8, 8)
    assert {item.bits for item in plan.items if isinstance(item, ReluBitsItem)} == {LEAST_SIGN_BITS}
