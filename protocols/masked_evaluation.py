"""The masked engine: a network evaluated on masked wires. Run by both servers, in step.

A wire x is a public part D = x + l and shares of its mask l (ABY2.0). All that does not depend on the image is folded into one
addend per wire before it arrives (`prepare`), and nothing that was dealt is expanded from its seed afterwards; a product keeps
its factors' masks besides. Then each wire costs each server one convolution, or two products, of public parts with its own
words, and one opening of 8 bytes (`run`). What is opened takes the place of its addend, so that memory does not grow. What
leaves a server is c_i, its summand of c = y + r, with r fresh and uniform for every wire (protocols.masked_dealing); what it
opens is truncated exactly or flagged (protocols.truncation).

Wires are computed, sent, received and truncated by blocks of rows of about a MiB: they stay in cache, and the network works while
the next block is computed. The masked bits inside a ReLU are not: they go as one block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from protocols import ring
from protocols.bit_planes import bit_planes, unpacked
from protocols.errors import LocalProtocolError
from protocols.identifiers import Role
from protocols.layers import AvgPool, Layer
from protocols.linear_steps import linear_step, pool_sum
from protocols.lowering import WireUses
from protocols.masked_dealing import PartyMasks, operands
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
from protocols.network import IMAGE_WIRE
from protocols.shared_model import SharedModel
from protocols.truncation import flagged, truncate_public
from protocols.unpicklable import Unpicklable

BLOCK_WORDS: Final = 1 << 17
AHEAD: Final = 2  # blocks that are sent before the first is received


@runtime_checkable  # for the shape checks of the tests
class Opener(Protocol):
    """The link to the other server: one message of the plan at a time, both ways, block by block."""

    def begin(self, index: int, words: int) -> None:
        """Announce message `index`. Raises MaterialReusedError, LocalProtocolError."""

    def send(self, block: Tensor) -> None:
        """The next words of this server's message. The tensor is not changed afterwards until it has left."""

    def receive(self, shape: tuple[int, ...]) -> Tensor:
        """The next words of the peer's message. Raises RemoteProtocolError."""


@dataclass(frozen=True, eq=False)
class MaskedResult(Unpicklable):
    """This server's output share, and whether truncation may have gone wrong somewhere: then it must not be released."""

    share: Int64[Tensor, "c h w"] = field(repr=False)
    flags: int  # opened wires with a flag; the same at both servers


@dataclass(frozen=True, eq=False)
class _ReluShares(Unpicklable):
    """One server's half of what a ReLU needs: shares of its source's mask, packed bits, and the masks of its openings."""

    mask: Tensor = field(repr=False)
    bit_products: Tensor = field(repr=False)
    bit_masks: Tensor = field(repr=False)
    mask_products: Tensor = field(repr=False)


class MaskedEvaluation(Unpicklable):
    """One evaluation at one server. `prepare`, then `run`, once each."""

    def __init__(self, role: Role, plan: MaskedPlan, model: SharedModel, masks: PartyMasks) -> None:
        self._leads = role is Role.A
        self._plan = plan
        self._model = model
        self._masks = masks
        self._layers = plan.lowered.by_name
        self._addends: dict[int, Tensor] = {}  # what is added to the public part of each opening, by item
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}  # mask shares of a product's factors; of a ReLU's bit and g*l
        self._kernels: dict[int, Tensor] = {}  # what a convolution multiplies the public part by
        self._relus: dict[str, _ReluShares] = {}
        self._output_mask: Tensor | None = None

    def prepare(self) -> None:
        """Fold everything that does not depend on the image."""
        plan, uses = self._plan, WireUses(self._plan.lowered.layers)
        masks: dict[str, Tensor] = {}
        for level in plan.levels:
            for item in level.items:
                if isinstance(item, InputItem):
                    self._addends[item.number] = self._masks.opening(item)
                    masks[item.layer] = plan.extended(item, self._addends[item.number])
                    continue
                layer = self._layers[item.layer]
                self._fold(item, layer, [masks[source] for source in layer.sources])
                if isinstance(item, WireItem):
                    masks[item.layer] = self._masks.dealt(item)
                elif isinstance(item, ReluItem):
                    masks[item.layer] = self._addends[item.number]
                if isinstance(item, WireItem | ReluItem):
                    uses.read(layer, masks)
            for layer in level.layers:
                sources = [masks[source] for source in layer.sources]
                masks[layer.out] = linear_step(layer, sources, masks.get(SIGMA_WIRE), plan.lowered.formats, constants=False)
                uses.read(layer, masks)
        self._output_mask = masks[plan.lowered.output]

    def _fold(self, item: Item, layer: Layer, masks: list[Tensor]) -> None:
        match item:
            case ConvItem():
                addend, weight = self._masks.opening(item), self._model.weights[item.weight]
                self._kernels[item.number] = weight.delta + weight.mask_share if self._leads else weight.mask_share
                convolution = ring.Convolution(item.source(masks[0]), weight.delta, item.geometry)
                bias = (self._model.biases[item.bias] << item.bias_shift).view(-1, 1, 1) if item.bias else None
                for top, bottom in row_blocks(item):
                    block = addend[:, top:bottom]
                    block -= convolution.rows(top, bottom)
                    if bias is not None:
                        block += bias
                self._addends[item.number] = addend
            case ProductItem():
                self._factors[item.number] = operands(layer, masks)
                self._addends[item.number] = self._masks.opening(item)
            case ScaleItem():
                x = pool_sum(masks[0], layer) if isinstance(layer, AvgPool) else masks[0]
                self._addends[item.number] = self._masks.opening(item).sub_(x, alpha=item.multiplier)
            case ReluBitsItem():
                bit_masks = self._masks.opening(item)
                self._relus[item.layer] = _ReluShares(masks[0], self._masks.dealt(item, 0), bit_masks, self._masks.dealt(item, 1))
            case ReluSignItem():
                self._factors[item.number] = (self._masks.dealt(item, 0), self._masks.dealt(item, 1))
                self._addends[item.number] = self._masks.opening(item)
            case ReluItem():
                self._addends[item.number] = self._masks.opening(item)

    def run(self, image: Int64[Tensor, "1 h w"], sigma: Int64[Tensor, "1 1 1"], opener: Opener) -> MaskedResult:
        """image, sigma: this server's shares at FRAC_BITS. Raises LocalProtocolError before `prepare` or a second time."""
        if self._output_mask is None:
            raise LocalProtocolError("the evaluation is not prepared, or has run")
        output_mask, self._output_mask = self._output_mask, None
        plan, uses = self._plan, WireUses(self._plan.lowered.layers)
        shares = {IMAGE_WIRE: image, SIGMA_WIRE: sigma}
        public: dict[str, Tensor] = {}  # the public part of each wire
        bits: dict[str, Tensor] = {}  # what the last step of each ReLU opened
        flags = 0
        for index, level in enumerate(plan.levels):
            opener.begin(index, plan.opened_words(index))
            targets = [self._target(item) for item in level.items]
            summands = [
                self._input(item, shares[item.layer])
                if isinstance(item, InputItem)
                else self._summand(
                    item, [public[source] for source in self._layers[item.layer].sources], bits.get(item.layer), target
                )
                for item, target in zip(level.items, targets, strict=True)
            ]
            flags += _open(level.items, summands, targets, opener)
            for item, words in zip(level.items, targets, strict=True):
                if isinstance(item, ReluBitsItem | ReluSignItem):
                    bits[item.layer] = words
                    continue
                public[item.layer] = plan.extended(item, words)
                if not isinstance(item, InputItem):
                    bits.pop(item.layer, None)
                    uses.read(self._layers[item.layer], public)
            for layer in level.layers:
                sources = [public[source] for source in layer.sources]
                public[layer.out] = linear_step(layer, sources, public.get(SIGMA_WIRE), plan.lowered.formats, constants=True)
                uses.read(layer, public)
        last = public[plan.lowered.output]
        return MaskedResult(plan.output(last - output_mask if self._leads else -output_mask), flags)

    def _target(self, item: Item) -> Tensor:
        """Where the opened words go. A truncated wire's overwrite its addend, block by block, as that is read no more."""
        return self._addends.pop(item.number) if isinstance(item, WireItem) else torch.empty(item.shape, dtype=torch.int64)

    def _input(self, item: Item, share: Tensor) -> Iterator[Tensor]:
        """An input plus its mask, by blocks of rows."""
        mask = self._addends.pop(item.number)
        for top, bottom in row_blocks(item):
            yield share[:, top:bottom] + mask[:, top:bottom]

    def _summand(self, item: Item, public: list[Tensor], bits: Tensor | None, target: Tensor) -> Iterator[Tensor]:
        """c_i of one opening, by blocks of rows. bits: what the step before opened, in a ReLU. target: see `_target`."""
        match item:
            case ConvItem():
                convolution = ring.Convolution(item.source(public[0]), self._kernels.pop(item.number), item.geometry)
                for top, bottom in row_blocks(item):
                    yield convolution.rows(top, bottom).add_(target[:, top:bottom])
            case ProductItem():
                factors = (*operands(self._layers[item.layer], public), *self._factors.pop(item.number))
                for top, bottom in row_blocks(item):
                    yield self._product(*(_rows(x, item, top, bottom) for x in (*factors, target)))
            case ScaleItem():
                layer = self._layers[item.layer]
                x = pool_sum(public[0], layer) if isinstance(layer, AvgPool) else public[0]
                for top, bottom in row_blocks(item):
                    share = target[:, top:bottom].clone()
                    yield share.add_(x[:, top:bottom], alpha=item.multiplier) if self._leads else share
            case ReluBitsItem():
                yield self._block_bits(item, public[0])
            case ReluSignItem() if bits is not None:
                yield self._sign(item, public[0], bits)
            case ReluItem() if bits is not None:
                shares = (self._relus.pop(item.layer).mask, *self._factors.pop(item.number - 1), self._addends.pop(item.number))
                opened = unpacked(bits.view(-1), item.words).view(item.shape)
                for top, bottom in row_blocks(item):
                    yield self._rectified(*(x[:, top:bottom] for x in (public[0], opened, *shares)))

    def _product(self, left: Tensor, right: Tensor, left_mask: Tensor, right_mask: Tensor, addend: Tensor) -> Tensor:
        """[u*v + r] = Du*Dv - Du*[lv] - [lu]*Dv + [e]; the first term is A's."""
        factor = right - right_mask if self._leads else -right_mask
        out = left * factor
        out -= left_mask * right
        return out.add_(addend)

    def _block_bits(self, item: ReluBitsItem, public: Tensor) -> Tensor:
        """XOR shares of the block bits, masked."""
        shares = self._relus[item.layer]
        planes = bit_planes(public, item.bits)
        bits = item.circuit.block_bits(planes, shares.bit_products.view(-1, item.shape[2]), self._leads)
        return bits.view(item.shape) ^ shares.bit_masks

    def _sign(self, item: ReluSignItem, public: Tensor, opened: Tensor) -> Tensor:
        """XOR share of the sign, masked: D[k-1] ^ l[k-1] ^ borrow."""
        shares, packed = self._relus[item.layer], item.shape[2]
        opened, masks, products = (x.view(-1, packed) for x in (opened, shares.bit_masks, shares.mask_products))
        out = item.circuit.borrow(opened, masks, products, self._leads)
        out ^= shares.bit_products.view(-1, packed)[-1]
        if self._leads:
            out ^= bit_planes(public, item.bits)[-1]
        return out.view(item.shape) ^ self._addends.pop(item.number)

    def _rectified(self, public: Tensor, opened: Tensor, mask: Tensor, bit: Tensor, bit_mask: Tensor, addend: Tensor) -> Tensor:
        """[(1-m)*x - (1-2m)*(D*g - g*l) + r]: x where the sign bit m ^ g is 0, else 0."""
        negative = opened.bool()
        product = (public * bit).sub_(bit_mask)
        own = public - mask if self._leads else -mask
        return torch.where(negative, product, own.sub_(product)).add_(addend)


def row_blocks(item: Item) -> Iterator[tuple[int, int]]:
    """Top and bottom of each block of rows in which a wire is opened. Public, the same at both servers."""
    channels, height, width = item.shape
    rows = ring.block_rows(BLOCK_WORDS, channels * width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _rows(x: Tensor, item: Item, top: int, bottom: int) -> Tensor:
    """Rows of a factor; a vector over channels is the same for all."""
    return x[:, top:bottom] if x.shape[1] == item.shape[1] else x


def _open(items: Iterable[Item], summands: Iterable[Iterator[Tensor]], targets: Iterable[Tensor], opener: Opener) -> int:
    """One message each way: c = c_A + c_B (XOR for bits) into the targets, wires truncated; returns how many are flagged."""
    flagged_wires: set[int] = set()
    waiting: list[tuple[Item, Tensor, int, int, Tensor]] = []

    def receive() -> None:
        item, target, top, bottom, own = waiting.pop(0)
        block = opener.receive(tuple(own.shape))
        if isinstance(item, ReluBitsItem | ReluSignItem):
            target[:, top:bottom] = block.bitwise_xor_(own)
            return
        block.add_(own)
        if isinstance(item, WireItem):
            if flagged(block, item.magnitude_bits):
                flagged_wires.add(item.number)
            truncate_public(block, item.shift)
        target[:, top:bottom] = block

    for item, blocks, target in zip(items, summands, targets, strict=True):
        for (top, bottom), own in zip(row_blocks(item), blocks, strict=True):
            opener.send(own)
            waiting.append((item, target, top, bottom, own))
            if len(waiting) > AHEAD:
                receive()
    while waiting:
        receive()
    return len(flagged_wires)
