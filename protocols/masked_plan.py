"""The dealing plan of the masked engine: which wires are opened, in which message, and how each is truncated.

Derived from the public network description alone, so dealer and servers compute it independently and compare digests. A wire is
opened once, c = y + r under its own fresh mask r; wires whose sources are known at the same time share one message.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final

from torch import Tensor

from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import FRAC_BITS
from protocols.linear_steps import LINEAR, extend_edges
from protocols.network import (
    IMAGE_WIRE,
    TRUNCATED,
    AvgPool,
    Conv,
    Gate,
    Layer,
    Linear,
    Network,
    Product,
    Scale,
    Shape,
)
from protocols.ring import WORD_BYTES, ConvGeometry
from protocols.truncation import RING_BITS, flag_probability

SIGMA_WIRE: Final = "noise level"  # one word; no layer can have this name
MEAN_BITS: Final = 12  # of the reciprocal of a window's size, unless that is a power of two


@dataclass(frozen=True)
class WireItem:
    """One wire to open. number: its place among all, the label of its streams. shift: f of the truncation; 0 for inputs.

    magnitude_bits: l, with |y| < 2^l for the untruncated integer y (protocols.truncation).
    """

    kind: ClassVar[str]
    number: int
    wire: str
    shape: Shape
    shift: int
    magnitude_bits: int

    @property
    def words(self) -> int:
        channels, height, width = self.shape
        return channels * height * width


@dataclass(frozen=True)
class InputItem(WireItem):
    """The image, or the noise level: uniformly masked, not truncated. Needs no correction."""

    kind = "input"


@dataclass(frozen=True)
class ConvItem(WireItem):
    """x * w + bias, with w masked once per push. A linear layer is a 1x1 convolution of a 1x1 plane."""

    kind = "conv"
    weight: str
    bias: str  # "" where there is none
    weight_shape: tuple[int, ...]
    geometry: ConvGeometry
    bias_shift: int  # from FRAC_BITS up to the product's fractional bits
    flattens: bool = False  # a linear layer

    def source(self, x: Tensor) -> Tensor:
        """The source as the convolution reads it: as a vector for a linear layer."""
        return x.reshape(-1, 1, 1) if self.flattens else x


@dataclass(frozen=True)
class ProductItem(WireItem):
    """Element-wise product of two wires; the right one may be a vector over channels."""

    kind = "product"


@dataclass(frozen=True)
class ScaleItem(WireItem):
    """A wire times a public integer: a scale, or the mean over a window."""

    kind = "scale"
    multiplier: int


@dataclass(frozen=True)
class Level:
    """One message each way: the wires that are opened in it, and the layers that can be computed right after it."""

    items: tuple[WireItem, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class MaskedPlan:
    """All openings of one evaluation, in order. Public."""

    network: Network
    height: int
    width: int
    levels: tuple[Level, ...]

    engine: ClassVar[str] = "masked"

    @cached_property
    def items(self) -> dict[str, WireItem]:
        """Every opened wire, by name, in order of opening."""
        return {item.wire: item for level in self.levels for item in level.items}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over network, size and every opening: what the handshakes compare."""
        openings = [[repr(item) for item in level.items] for level in self.levels]
        text = f"masked-plan-1|{self.network.digest.hex()}|{self.height}x{self.width}|{openings!r}"
        return hashlib.sha256(text.encode()).digest()

    @property
    def rounds(self) -> int:
        """Messages each way."""
        return len(self.levels)

    def extended(self, item: WireItem, words: Tensor) -> Tensor:
        """The image's edges repeated up to the padded size; other wires as they are."""
        return extend_edges(words, *self.network.padded_size(self.height, self.width)) if item.wire == IMAGE_WIRE else words

    def output(self, last: Tensor) -> Tensor:
        """The last wire, cropped to the image where it is as large as the padded one."""
        padded = self.network.padded_size(self.height, self.width)
        return last[:, : self.height, : self.width] if tuple(last.shape[1:]) == padded else last

    def opened_words(self, index: int) -> int:
        """Ring words that each server sends in message number `index`."""
        return sum(item.words for item in self.levels[index].items)

    @cached_property
    def corrected(self) -> tuple[WireItem, ...]:
        """The wires for which the dealer sends B its share of the mask, in order."""
        return tuple(item for item in self.items.values() if not isinstance(item, InputItem))

    @property
    def correction_sizes(self) -> list[int]:
        """Bytes of each correction, in the order in which the dealer sends them."""
        return [item.words * WORD_BYTES for item in self.corrected]

    @property
    def sent_bytes(self) -> int:
        """Bytes of opened wires that each server sends to the other."""
        return sum(item.words for item in self.items.values()) * WORD_BYTES

    @property
    def dealt_bytes(self) -> int:
        """Bytes of corrections that the dealer sends to B."""
        return sum(self.correction_sizes)

    @property
    def expected_flags(self) -> float:
        """Flagged elements to expect in one evaluation: nearly the probability that it has to be repeated."""
        return sum(flag_probability(item.magnitude_bits, item.words) for item in self.corrected)


def uncovered(network: Network) -> list[str]:
    """Layers that the masked engine does not evaluate; a network that has any runs on the general engine."""
    return [layer.out for layer in network.layers if not isinstance(layer, (*LINEAR, *TRUNCATED))]


def masked_plan(network: Network, height: int, width: int) -> MaskedPlan:
    """Derive the plan. Raises NetworkDescriptionError where the network does not fit the size."""
    shapes = network.wire_shapes(height, width)
    bits = network.wire_frac_bits()
    inputs: list[tuple[str, Shape]] = [(IMAGE_WIRE, (1, height, width))]
    if network.conditioned:
        inputs.append((SIGMA_WIRE, (1, 1, 1)))
    depth = {IMAGE_WIRE: 0}
    opened: dict[int, list[Layer]] = {}
    local: dict[int, list[Layer]] = {}
    for layer in network.layers:
        depth[layer.out] = max(depth[source] for source in layer.sources) + isinstance(layer, TRUNCATED)
        (opened if isinstance(layer, TRUNCATED) else local).setdefault(depth[layer.out], []).append(layer)
    items: list[list[WireItem]] = [[InputItem(n, wire, shape, 0, 0) for n, (wire, shape) in enumerate(inputs)]]
    number = len(inputs)
    for index in range(1, max(depth.values()) + 1):
        level = []
        for layer in opened[index]:
            level.append(_item(number, layer, [shapes[source] for source in layer.sources], shapes[layer.out], network, bits))
            number += 1
        items.append(level)
    for item in (item for level in items for item in level):
        if item.shift < 0 or item.magnitude_bits >= RING_BITS - 1:
            raise NetworkDescriptionError(
                f"{item.wire}: {item.magnitude_bits} bits, truncated by {item.shift}, do not fit the ring; correct its range"
            )
    levels = tuple(Level(tuple(level), tuple(local.get(index, []))) for index, level in enumerate(items))
    return MaskedPlan(network, height, width, levels)


def _item(number: int, layer: Layer, inputs: Sequence[Shape], out: Shape, network: Network, bits: dict[str, int]) -> WireItem:
    """How the wire of one layer is opened. The product of the sources has `fine` fractional bits, the wire has fewer."""
    wire, name = network.range_of(layer.out), layer.out
    source = bits[layer.sources[0]]
    match layer:
        case Conv() | Linear():
            fine = source + network.weight_frac_bits
            shift, size = fine - wire.frac_bits, fine + wire.magnitude_bits
            if isinstance(layer, Linear):
                shape: tuple[int, ...] = (layer.out_features, inputs[0][0] * inputs[0][1] * inputs[0][2], 1, 1)
                names = (layer.weight_name, layer.bias_name)
                return ConvItem(number, name, out, shift, size, *names, shape, ConvGeometry(), fine - FRAC_BITS, flattens=True)
            shape = layer.parameters(inputs)[layer.weight_name]
            bias = layer.bias_name if layer.bias else ""
            return ConvItem(number, name, out, shift, size, layer.weight_name, bias, shape, layer.geometry, fine - FRAC_BITS)
        case Gate() | Product():
            fine = source + bits[layer.sources[-1]]
            return ProductItem(number, name, out, fine - wire.frac_bits, fine + wire.magnitude_bits)
        case Scale():
            multiplier = round(layer.factor * (1 << FRAC_BITS))
            fine = source + FRAC_BITS
            return ScaleItem(number, name, out, fine - wire.frac_bits, fine + wire.magnitude_bits, multiplier)
        case AvgPool():
            rows, columns = layer.window(inputs)
            multiplier, added = reciprocal(rows * columns)
            lift = max(0, wire.frac_bits - source - added)  # a small window of a coarse wire adds too few bits
            fine = source + added + lift
            return ScaleItem(number, name, out, fine - wire.frac_bits, fine + wire.magnitude_bits, multiplier << lift)
    raise AssertionError(f"no opening of {layer.op}")  # a layer type was added without this case


def reciprocal(count: int) -> tuple[int, int]:
    """(m, k) with m / 2^k close to 1 / count: exact for a power of two, else to MEAN_BITS bits."""
    exponent = (count - 1).bit_length()
    added = exponent if count == 1 << exponent else exponent + MEAN_BITS
    return round((1 << added) / count), added
