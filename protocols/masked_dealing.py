"""Material of the masked engine: how the dealer makes it and how each server expands its half.

Each opened wire y has a mask r, uniform in Z_{2^64} and known to the dealer alone. With x = Dx - lx for the sources (masked
wires, ABY2.0) and w = Dw + b for a weight (Dw opened once per push, b its mask), the product is

    x*w = Dx*(Dw + b) - lx*Dw - lx*b          u*v = Du*Dv - Du*lv - lu*Dv + lu*lv

The servers' shares of e = r - lx*b (or r + lu*lv) are pure PRG output, and the dealer *solves for r* = e + lx*b (or e - lu*lv):
r is as uniform as e. So the product's shares cost nothing, and B needs one correction per wire: its share of the truncated mask
r >> f, of which A's share is PRG output again. Inputs are masked by the sum of two streams and need no correction.

A ReLU of x = D - l (protocols.sign_bits) opens its block bits under bits a that are PRG output; the dealer shares the products of
the bits of l and those of a. It opens its sign under a bit g, which the dealer also shares as a ring element, with g*l; and its
result (1-m)*x - (1-2m)*(D*g - g*l), m being the opened bit, under the sum of two streams.

Run by the dealer (`dealt_blocks`) and by both servers (`PartyMasks`). Assumes that the dealer colludes with neither server
and does not see their traffic; semi-honest.
Source: Patra, Schneider, Suresh, Yalame: ABY2.0, USENIX Security 2021, section 3; Boyle et al., CRYPTO 2019 for the seeds.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count, groupby
from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

from protocols import ring
from protocols.bit_planes import bit_planes, unpacked
from protocols.errors import LocalProtocolError, MaterialReusedError
from protocols.identifiers import Role
from protocols.layers import Gate, Layer
from protocols.linear_steps import linear_step
from protocols.lowering import WireUses
from protocols.masked_plan import (
    SIGMA_WIRE,
    ConvItem,
    InputItem,
    Item,
    MaskedPlan,
    ProductItem,
    ReluBitsItem,
    ReluItem,
    ReluSignItem,
    ScaleItem,
    WireItem,
)
from protocols.prg import Prg
from protocols.truncation import truncate_mask
from protocols.unpicklable import Unpicklable

BLOCK_WORDS: Final = 1 << 17  # a MiB: stays in cache, and is one message to server B


class Stream(IntEnum):
    """The kinds of tensor of one item: with its number they address a stream, so no two overlap."""

    OPENING = 0  # inside what is opened: either server's
    DEALT = 1  # A's share of the first dealt tensor; the second has the next kind


def operands(layer: Layer, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The two factors of a gate or a product."""
    if isinstance(layer, Gate):
        left, right = inputs[0].chunk(2, dim=0)
        return left, right
    return inputs[0], inputs[1]


@dataclass(frozen=True, eq=False)
class DealtBlock(Unpicklable):
    """Some words of one correction. label: which. start: of these words in it, row-major."""

    label: int
    start: int
    words: Int64[Tensor, " block"] = field(repr=False)


def dealt_corrections(
    plan: MaskedPlan, seed_a: bytes, seed_b: bytes, weight_masks: Mapping[str, Tensor]
) -> Iterator[Int64[Tensor, "..."]]:
    """The corrections of `dealt_blocks`, each as a whole, of the shapes `plan.corrections`. Run by the dealer."""
    blocks = dealt_blocks(plan, seed_a, seed_b, weight_masks)
    for label, pieces in groupby(blocks, key=lambda block: block.label):
        yield torch.cat([block.words for block in pieces]).view(plan.corrections[label])


def dealt_blocks(plan: MaskedPlan, seed_a: bytes, seed_b: bytes, weight_masks: Mapping[str, Tensor]) -> Iterator[DealtBlock]:
    """B's shares of what the dealer determines, in order, in blocks that stay in cache. Run by the dealer.

    weight_masks: b = b_A + b_B of the push, by weight name.
    """
    prgs = Prg(seed_a), Prg(seed_b)
    layers, uses = plan.lowered.by_name, WireUses(plan.lowered.layers)
    masks: dict[str, Tensor] = {}
    labels = count()
    for level in plan.levels:
        for item in level.items:
            if isinstance(item, InputItem):
                masks[item.layer] = plan.extended(item, _stream_sum(item, prgs))
                continue
            layer = layers[item.layer]
            sources = [masks[source] for source in layer.sources]
            match item:
                case WireItem():
                    masks[item.layer] = _product(item, layer, sources, weight_masks)
                    yield from _truncated(item, masks[item.layer].view(-1), prgs, next(labels))
                case ReluBitsItem() | ReluSignItem():
                    yield from _relu(item, sources[0], prgs, labels)
                case ReluItem():
                    masks[item.layer] = _stream_sum(item, prgs)
            if isinstance(item, WireItem | ReluItem):
                uses.read(layer, masks)
        for layer in level.layers:
            masks[layer.out] = linear_step(
                layer, [masks[source] for source in layer.sources], masks.get(SIGMA_WIRE), plan.lowered.formats, constants=False
            )
            uses.read(layer, masks)


def _relu(
    item: ReluBitsItem | ReluSignItem, source: Tensor, prgs: tuple[Prg, Prg], labels: Iterator[int]
) -> Iterator[DealtBlock]:
    """What both need for one step of a ReLU. A generator of its own, so that nothing of it outlives it."""
    match item:
        case ReluBitsItem():
            dealt = _bit_products(item, source, _stream_xor(item, prgs))
        case ReluSignItem():
            bit = unpacked(_stream_xor(item, prgs).view(-1), source.numel()).view(item.elements).long()
            dealt = [bit, bit * source]
    for place, tensor in enumerate(dealt):
        yield from _shared(item, place, tensor, prgs[0], next(labels))


def _stream_sum(item: Item, prgs: Iterable[Prg]) -> Tensor:
    """The sum of both servers' streams inside an opening."""
    first, second = (prg.words(item.number, Stream.OPENING, item.shape) for prg in prgs)
    return first.add_(second)


def _stream_xor(item: Item, prgs: Iterable[Prg]) -> Tensor:
    first, second = (prg.words(item.number, Stream.OPENING, item.shape) for prg in prgs)
    return first.bitwise_xor_(second)


def _product(item: WireItem, layer: Layer, sources: list[Tensor], weight_masks: Mapping[str, Tensor]) -> Tensor:
    """What the dealer adds to e to solve for r: lx*b, -lu*lv, or nothing. A tensor of its own, contiguous."""
    match item:
        case ConvItem():
            return ring.conv2d(item.source(sources[0]), weight_masks[item.weight], item.geometry)
        case ProductItem():
            left, right = operands(layer, sources)
            return (left * right).neg_()
        case ScaleItem():
            return torch.zeros(item.shape, dtype=torch.int64)
    raise AssertionError(f"no mask of {item}")  # an item type was added without this case


def _truncated(item: WireItem, mask: Int64[Tensor, " words"], prgs: tuple[Prg, Prg], label: int) -> Iterator[DealtBlock]:
    """Turn `_product` into the truncated mask, in place, and share it."""
    openings = [prg.reader(item.number, Stream.OPENING) for prg in prgs]
    share_a = prgs[0].reader(item.number, Stream.DEALT)
    stream = torch.empty(BLOCK_WORDS, dtype=torch.int64)
    for start in range(0, mask.numel(), BLOCK_WORDS):
        block = mask[start : start + BLOCK_WORDS]
        for opening in openings:
            block += opening.fill(stream[: block.numel()])
        block.copy_(truncate_mask(block, item.shift))
        yield DealtBlock(label, start, block - share_a.fill(stream[: block.numel()]))


def _shared(item: Item, place: int, dealt: Tensor, prg_a: Prg, label: int) -> Iterator[DealtBlock]:
    """B's share of a dealt tensor; of packed bits by XOR."""
    share_a, words = prg_a.reader(item.number, Stream.DEALT + place), dealt.view(-1)
    for start in range(0, words.numel(), BLOCK_WORDS):
        block = words[start : start + BLOCK_WORDS]
        own = share_a.words(block.numel())
        yield DealtBlock(
            label, start, own.bitwise_xor_(block) if isinstance(item, ReluBitsItem) else torch.sub(block, own, out=own)
        )


def _bit_products(item: ReluBitsItem, mask: Tensor, masks: Tensor) -> list[Tensor]:
    """Products of the bits of a wire's mask, and of the masks of its block bits; packed."""
    circuit, shapes = item.circuit, item.dealt_shapes
    of_bits = circuit.products(bit_planes(mask, item.bits), circuit.bit_products)
    of_masks = circuit.products(masks.view(circuit.masked_bits, -1), circuit.mask_pairs)
    return [of_bits.view(shapes[0]), of_masks.view(shapes[1])]


class PartyMasks(Unpicklable):
    """One server's half of one batch: every tensor is given out once."""

    def __init__(self, role: Role, seed: bytes, corrections: Iterator[Int64[Tensor, "..."]]) -> None:
        """corrections: server B's shares of what is dealt, in plan order, read as they are needed; server A reads none."""
        self._role = role
        self._prg = Prg(seed)
        self._corrections = corrections
        self._taken: set[tuple[int, int]] = set()

    def __repr__(self) -> str:
        return f"PartyMasks(role={self._role.value}, taken={len(self._taken)})"

    def opening(self, item: Item) -> Int64[Tensor, "..."]:
        """This server's stream inside an opening. Raises MaterialReusedError the second time."""
        self._take(item, Stream.OPENING)
        return self._prg.words(item.number, Stream.OPENING, item.shape)

    def dealt(self, item: Item, place: int = 0) -> Int64[Tensor, "..."]:
        """This server's share of a dealt tensor. Raises MaterialReusedError the second time, LocalProtocolError."""
        self._take(item, Stream.DEALT + place)
        shape = item.dealt_shapes[place]
        if self._role is Role.A:
            return self._prg.words(item.number, Stream.DEALT + place, shape)
        words = next(self._corrections, None)
        if words is None or tuple(words.shape) != shape:
            raise LocalProtocolError(f"{item.layer}: the dealer's correction has not arrived")
        return words

    def _take(self, item: Item, kind: int) -> None:
        if (item.number, kind) in self._taken:
            raise MaterialReusedError(f"{item.layer}: stream {kind} of item {item.number} has been used")
        self._taken.add((item.number, kind))
