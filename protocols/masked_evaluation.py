"""The masked engine: a network evaluated on masked wires. Run by both servers, in step.

A wire x is a public part D = x + l and shares of its mask l (ABY2.0). All that does not depend on the image is folded into one
addend per wire before it arrives (`prepare`); then each wire costs each server one convolution or product of public parts with
its own words, and one opening of 8 bytes (`run`). What leaves a server is c_i, its summand of c = y + r, with r fresh and uniform
for every wire (protocols.masked_dealing); what it opens is truncated exactly or flagged (protocols.truncation).

Wires are computed, sent, received and truncated by blocks of rows of about a MiB: they stay in cache, and the network works while
the next block is computed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from protocols import ring
from protocols.errors import LocalProtocolError
from protocols.identifiers import Role
from protocols.linear_steps import linear_step, pool_sum
from protocols.masked_dealing import PartyMasks, operands
from protocols.masked_plan import SIGMA_WIRE, ConvItem, InputItem, MaskedPlan, ProductItem, ScaleItem, WireItem
from protocols.network import IMAGE_WIRE, AvgPool, Layer, WireUses
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


class MaskedEvaluation(Unpicklable):
    """One evaluation at one server. `prepare`, then `run`, once each."""

    def __init__(self, role: Role, plan: MaskedPlan, model: SharedModel, masks: PartyMasks) -> None:
        self._leads = role is Role.A
        self._plan = plan
        self._model = model
        self._masks = masks
        self._bits = plan.network.wire_frac_bits()
        self._layers = {layer.out: layer for layer in plan.network.layers}
        self._addends: dict[str, Tensor] = {}  # what is added to the public part of each opening
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}  # mask shares of both factors of a product
        self._output_mask: Tensor | None = None

    def prepare(self) -> None:
        """Fold everything that does not depend on the image."""
        plan, uses = self._plan, WireUses(self._plan.network)
        masks: dict[str, Tensor] = {}
        for level in plan.levels:
            for item in level.items:
                if isinstance(item, InputItem):
                    self._addends[item.wire] = self._masks.mask(item)
                    masks[item.wire] = plan.extended(item, self._addends[item.wire])
                    continue
                layer = self._layers[item.wire]
                self._fold(item, layer, [masks[source] for source in layer.sources])
                masks[item.wire] = self._masks.mask(item)
                uses.read(layer, masks)
            for layer in level.layers:
                sources = [masks[source] for source in layer.sources]
                masks[layer.out] = linear_step(layer, sources, masks.get(SIGMA_WIRE), self._bits)
                uses.read(layer, masks)
        self._output_mask = masks[plan.network.layers[-1].out]

    def _fold(self, item: WireItem, layer: Layer, masks: list[Tensor]) -> None:
        if isinstance(item, ProductItem):
            self._factors[item.wire] = operands(layer, masks)  # its addend is PRG output alone: expanded when it is needed
            return
        addend = self._masks.opening(item)
        match item:
            case ConvItem():
                delta = self._model.weights[item.weight].delta
                addend -= ring.conv2d(item.source(masks[0]), delta, item.geometry)
                if item.bias:
                    addend += (self._model.biases[item.bias] << item.bias_shift).view(-1, 1, 1)
            case ScaleItem():
                addend -= item.multiplier * (pool_sum(masks[0], layer) if isinstance(layer, AvgPool) else masks[0])
        self._addends[item.wire] = addend

    def run(self, image: Int64[Tensor, "1 h w"], sigma: Int64[Tensor, "1 1 1"], opener: Opener) -> MaskedResult:
        """image, sigma: this server's shares at FRAC_BITS. Raises LocalProtocolError before `prepare` or a second time."""
        if self._output_mask is None:
            raise LocalProtocolError("the evaluation is not prepared, or has run")
        output_mask, self._output_mask = self._output_mask, None
        plan, uses = self._plan, WireUses(self._plan.network)
        shares = {IMAGE_WIRE: image, SIGMA_WIRE: sigma}
        public: dict[str, Tensor] = {}
        flags = 0
        for index, level in enumerate(plan.levels):
            opener.begin(index, plan.opened_words(index))
            summands = [
                self._blocks(item, shares[item.wire])
                if isinstance(item, InputItem)
                else self._summand(item, [public[source] for source in self._layers[item.wire].sources])
                for item in level.items
            ]
            opened, found = _open(level.items, summands, opener)
            flags += found
            for item, words in zip(level.items, opened, strict=True):
                public[item.wire] = plan.extended(item, words)
                if not isinstance(item, InputItem):
                    uses.read(self._layers[item.wire], public)
            for layer in level.layers:
                sources = [public[source] for source in layer.sources]
                public[layer.out] = linear_step(layer, sources, public.get(SIGMA_WIRE), self._bits)
                uses.read(layer, public)
        last = public[plan.network.layers[-1].out]
        return MaskedResult(plan.output(last - output_mask if self._leads else -output_mask), flags)

    def _blocks(self, item: WireItem, share: Tensor) -> Iterator[Tensor]:
        """An input plus its mask, by blocks of rows."""
        mask = self._addends.pop(item.wire)
        for top, bottom in row_blocks(item):
            yield share[:, top:bottom] + mask[:, top:bottom]

    def _summand(self, item: WireItem, public: list[Tensor]) -> Iterator[Tensor]:
        """c_i of one wire, by blocks of rows."""
        addend = self._masks.opening(item) if isinstance(item, ProductItem) else self._addends.pop(item.wire)
        match item:
            case ConvItem():
                weight = self._model.weights[item.weight]
                kernel = weight.delta + weight.mask_share if self._leads else weight.mask_share
                convolution = ring.Convolution(item.source(public[0]), kernel, item.geometry)
                for top, bottom in row_blocks(item):
                    yield convolution.rows(top, bottom).add_(addend[:, top:bottom])
            case ProductItem():
                left, right = operands(self._layers[item.wire], public)
                left_mask, right_mask = self._factors.pop(item.wire)
                for top, bottom in row_blocks(item):
                    rows = [_rows(x, item, top, bottom) for x in (left, right, left_mask, right_mask, addend)]
                    yield self._product(*rows)
            case ScaleItem():
                layer = self._layers[item.wire]
                x = pool_sum(public[0], layer) if isinstance(layer, AvgPool) else public[0]
                for top, bottom in row_blocks(item):
                    share = addend[:, top:bottom].clone()
                    yield share.add_(x[:, top:bottom], alpha=item.multiplier) if self._leads else share

    def _product(self, left: Tensor, right: Tensor, left_mask: Tensor, right_mask: Tensor, addend: Tensor) -> Tensor:
        """[u*v + r] = Du*Dv - Du*[lv] - [lu]*Dv + [e]; the first term is A's."""
        factor = right - right_mask if self._leads else -right_mask
        out = left * factor
        out -= left_mask * right
        return out.add_(addend)


def row_blocks(item: WireItem) -> Iterator[tuple[int, int]]:
    """Top and bottom of each block of rows in which a wire is opened. Public, the same at both servers."""
    channels, height, width = item.shape
    rows = max(1, BLOCK_WORDS // (channels * width))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _rows(x: Tensor, item: WireItem, top: int, bottom: int) -> Tensor:
    """Rows of a factor; a vector over channels is the same for all."""
    return x[:, top:bottom] if x.shape[1] == item.shape[1] else x


def _open(items: Iterable[WireItem], summands: Iterable[Iterator[Tensor]], opener: Opener) -> tuple[list[Tensor], int]:
    """One message each way: c = c_A + c_B of every wire, truncated; and how many wires are flagged."""
    opened: list[Tensor] = []
    flagged_wires: set[str] = set()
    waiting: list[tuple[WireItem, Tensor, int, int, Tensor]] = []

    def receive() -> None:
        item, target, top, bottom, own = waiting.pop(0)
        block = opener.receive(tuple(own.shape)).add_(own)
        if not isinstance(item, InputItem) and flagged(block, item.magnitude_bits):
            flagged_wires.add(item.wire)
        target[:, top:bottom] = truncate_public(block, item.shift)

    for item, blocks in zip(items, summands, strict=True):
        target = torch.empty(item.shape, dtype=torch.int64)
        opened.append(target)
        for (top, bottom), own in zip(row_blocks(item), blocks, strict=True):
            opener.send(own)
            waiting.append((item, target, top, bottom, own))
            if len(waiting) > AHEAD:
                receive()
    while waiting:
        receive()
    return opened, len(flagged_wires)
