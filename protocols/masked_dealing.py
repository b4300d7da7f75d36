"""Material of the masked engine: how the dealer makes it and how each server expands its half.

Each opened wire y has a mask r, uniform in Z_{2^64} and known to the dealer alone. With x = Dx - lx for the sources (masked
wires, ABY2.0) and w = Dw + b for a weight (Dw opened once per push, b its mask), the product is

    x*w = Dx*(Dw + b) - lx*Dw - lx*b          u*v = Du*Dv - Du*lv - lu*Dv + lu*lv

The servers' shares of e = r - lx*b (or r + lu*lv) are pure PRG output, and the dealer *solves for r* = e + lx*b (or e - lu*lv):
r is as uniform as e. So the product's shares cost nothing, and B needs one correction per wire: its share of the truncated mask
r >> f, of which A's share is PRG output again. Inputs are masked by the sum of two streams and need no correction.

Run by the dealer (`mask_corrections`) and by both servers (`PartyMasks`). Assumes that the dealer colludes with neither server
and does not see their traffic; semi-honest.
Source: Patra, Schneider, Suresh, Yalame: ABY2.0, USENIX Security 2021, section 3; Boyle et al., CRYPTO 2019 for the seeds.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum

from jaxtyping import Int64
from torch import Tensor

from protocols import ring
from protocols.errors import LocalProtocolError, MaterialReusedError
from protocols.identifiers import Role
from protocols.linear_steps import linear_step
from protocols.masked_plan import SIGMA_WIRE, ConvItem, InputItem, MaskedPlan, ProductItem, ScaleItem, WireItem
from protocols.network import Gate, Layer, WireUses
from protocols.prg import Prg
from protocols.truncation import truncate_mask
from protocols.unpicklable import Unpicklable


class Stream(IntEnum):
    """The kinds of tensor of one wire: with its number they address a stream, so no two overlap."""

    OPENING = 0  # e: inside the opened sum
    MASK = 1  # A's share of the truncated mask; the share of either for inputs


def operands(layer: Layer, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The two factors of a gate or a product."""
    if isinstance(layer, Gate):
        left, right = inputs[0].chunk(2, dim=0)
        return left, right
    return inputs[0], inputs[1]


def mask_corrections(
    plan: MaskedPlan, seed_a: bytes, seed_b: bytes, weight_masks: Mapping[str, Tensor]
) -> Iterator[Int64[Tensor, "..."]]:
    """B's share of the mask of each wire in `plan.corrected`, in order. Run by the dealer.

    weight_masks: b = b_A + b_B of the push, by weight name.
    """
    prg_a, prg_b = Prg(seed_a), Prg(seed_b)
    network, bits = plan.network, plan.network.wire_frac_bits()
    layers = {layer.out: layer for layer in network.layers}
    remaining = WireUses(network)
    masks: dict[str, Tensor] = {}
    for level in plan.levels:
        for item in level.items:
            if isinstance(item, InputItem):
                masks[item.wire] = plan.extended(item, _both(prg_a, prg_b, item, Stream.MASK))
                continue
            layer = layers[item.wire]
            sources = [masks[source] for source in layer.sources]
            e = _both(prg_a, prg_b, item, Stream.OPENING)
            mask = truncate_mask(_full_mask(item, layer, sources, e, weight_masks), item.shift)
            masks[item.wire] = mask
            yield mask - prg_a.words(item.number, Stream.MASK, item.shape)
            remaining.read(layer, masks)
        for layer in level.layers:
            masks[layer.out] = linear_step(layer, [masks[source] for source in layer.sources], masks.get(SIGMA_WIRE), bits)
            remaining.read(layer, masks)


def _both(prg_a: Prg, prg_b: Prg, item: WireItem, kind: Stream) -> Tensor:
    return prg_a.words(item.number, kind, item.shape).add_(prg_b.words(item.number, kind, item.shape))


def _full_mask(item: WireItem, layer: Layer, sources: list[Tensor], e: Tensor, weight_masks: Mapping[str, Tensor]) -> Tensor:
    """r, as the module's docstring solves for it. Consumes e."""
    match item:
        case ConvItem():
            return e.add_(ring.conv2d(item.source(sources[0]), weight_masks[item.weight], item.geometry))
        case ProductItem():
            left, right = operands(layer, sources)
            return e.sub_(left * right)
        case ScaleItem():
            return e
    raise AssertionError(f"no mask of {item.kind}")  # an item type was added without this case


class PartyMasks(Unpicklable):
    """One server's half of one batch: every tensor is given out once."""

    def __init__(self, role: Role, seed: bytes, corrections: Iterator[Int64[Tensor, "..."]]) -> None:
        """corrections: server B's shares of the masks in plan order, read as they are needed; server A reads none."""
        self._role = role
        self._prg = Prg(seed)
        self._corrections = corrections
        self._taken: set[tuple[int, Stream]] = set()

    def __repr__(self) -> str:
        return f"PartyMasks(role={self._role.value}, taken={len(self._taken)})"

    def opening(self, item: WireItem) -> Int64[Tensor, "..."]:
        """This server's share of e."""
        self._take(item, Stream.OPENING)
        return self._prg.words(item.number, Stream.OPENING, item.shape)

    def mask(self, item: WireItem) -> Int64[Tensor, "..."]:
        """This server's share of the truncated mask."""
        self._take(item, Stream.MASK)
        if self._role is Role.A or isinstance(item, InputItem):
            return self._prg.words(item.number, Stream.MASK, item.shape)
        words = next(self._corrections, None)
        if words is None or tuple(words.shape) != item.shape:
            raise LocalProtocolError(f"{item.wire}: the dealer's correction has not arrived")
        return words

    def _take(self, item: WireItem, kind: Stream) -> None:
        if (item.number, kind) in self._taken:
            raise MaterialReusedError(f"{item.wire}: its {kind.name.lower()} has been used")
        self._taken.add((item.number, kind))
