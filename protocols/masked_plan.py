"""The dealing plan of the masked engine: what is opened, in which message, and how each wire is truncated.

Derived from the public network description alone, so dealer and servers compute it independently and compare digests. A wire is
opened once, c = y + r under its own fresh mask r; what is known at the same time shares one message. A ReLU opens masked bits, a
masked sign and its result (protocols.sign_bits).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final

from torch import Tensor

from protocols.bit_planes import plane_words
from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import FRAC_BITS
from protocols.layers import AvgPool, Conv, Gate, Layer, Linear, Product, Relu, Scale, Shape
from protocols.linear_steps import LINEAR, extend_edges
from protocols.lowering import Lowered, WireFormat, check_sign, lower
from protocols.network import IMAGE_WIRE, Network
from protocols.ring import WORD_BYTES, ConvGeometry
from protocols.sign_bits import SignBits
from protocols.truncation import RING_BITS, flag_probability

SIGMA_WIRE: Final = "noise level"  # one word; no layer can have this name
MEAN_BITS: Final = 12  # of the reciprocal of a window's size, unless that is a power of two
LEAST_SIGN_BITS: Final = 6  # two blocks: of one there would be no products of masks to deal
MAX_SIGN_BITS: Final = 33  # eight blocks: each more doubles what is dealt


@dataclass(frozen=True)
class Item:
    """Something to open. number: its place among all, the label of its streams. shape: of the words that each server sends.

    layer: the lowered layer that it belongs to; an input's own name.
    """

    number: int
    layer: str
    shape: Shape

    @property
    def words(self) -> int:
        channels, height, width = self.shape
        return channels * height * width

    @property
    def dealt_shapes(self) -> tuple[Shape, ...]:
        """Tensors that the dealer determines: A's share is PRG output, B's share is a correction."""
        return ()


@dataclass(frozen=True)
class InputItem(Item):
    """The image, or the noise level: uniformly masked, not truncated."""


@dataclass(frozen=True)
class WireItem(Item):
    """A wire that is truncated. shift: f. magnitude_bits: l, with |y| < 2^l before it (protocols.truncation)."""

    shift: int
    magnitude_bits: int

    @property
    def dealt_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)  # the truncated mask


@dataclass(frozen=True)
class ConvItem(WireItem):
    """x * w + bias, with w masked once per push. A linear layer is a 1x1 convolution of a 1x1 plane."""

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


@dataclass(frozen=True)
class ScaleItem(WireItem):
    """A wire times a public integer: a scale, or the mean over a window."""

    multiplier: int


@dataclass(frozen=True)
class SignItem(Item):
    """A step of a ReLU. elements: of its wire. bits: that hold its source in two's complement."""

    elements: Shape
    bits: int

    @property
    def circuit(self) -> SignBits:
        return SignBits(self.bits)


@dataclass(frozen=True)
class ReluBitsItem(SignItem):
    """Opens the masked block bits, by XOR. Dealt: products of the mask's bits, and products of the bits' masks."""

    @property
    def dealt_shapes(self) -> tuple[Shape, ...]:
        packed = self.shape[2]
        return ((len(self.circuit.bit_products), 1, packed), (len(self.circuit.mask_pairs), 1, packed))


@dataclass(frozen=True)
class ReluSignItem(SignItem):
    """Opens the sign under a mask bit g, by XOR. Dealt: g and g * l as ring elements, for the product that follows."""

    @property
    def dealt_shapes(self) -> tuple[Shape, ...]:
        return (self.elements, self.elements)


@dataclass(frozen=True)
class ReluItem(SignItem):
    """Opens the result under a fresh mask; nothing is truncated, nothing dealt."""


@dataclass(frozen=True)
class Level:
    """One message each way: what is opened in it, and the layers that can be computed right after it."""

    items: tuple[Item, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class MaskedPlan:
    """All openings of one evaluation, in order. Public."""

    network: Network
    height: int
    width: int
    lowered: Lowered
    levels: tuple[Level, ...]

    engine: ClassVar[str] = "masked"

    @property
    def formats(self) -> dict[str, WireFormat]:
        """Of every wire."""
        return dict(self.lowered.formats)

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Everything that is opened, in order."""
        return tuple(item for level in self.levels for item in level.items)

    @cached_property
    def wires(self) -> dict[str, Item]:
        """What opens each wire, by its name: of a ReLU the last step."""
        return {item.layer: item for item in self.items}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over network, size and every opening: what the handshakes compare."""
        openings = [[repr(item) for item in level.items] for level in self.levels]
        text = f"masked-plan-2|{self.network.digest.hex()}|{self.height}x{self.width}|{openings!r}"
        return hashlib.sha256(text.encode()).digest()

    def extended(self, item: Item, words: Tensor) -> Tensor:
        """The image's edges repeated up to the padded size; other inputs as they are."""
        return extend_edges(words, *self.network.padded_size(self.height, self.width)) if item.layer == IMAGE_WIRE else words

    def output(self, last: Tensor) -> Tensor:
        """The last wire, cropped to the image where it is as large as the padded one."""
        padded = self.network.padded_size(self.height, self.width)
        return last[:, : self.height, : self.width] if tuple(last.shape[1:]) == padded else last

    @property
    def rounds(self) -> int:
        """Messages each way."""
        return len(self.levels)

    def opened_words(self, index: int) -> int:
        """Ring words that each server sends in message number `index`."""
        return sum(item.words for item in self.levels[index].items)

    @cached_property
    def corrections(self) -> tuple[Shape, ...]:
        """The shapes of what the dealer sends to B, in order."""
        return tuple(shape for item in self.items for shape in item.dealt_shapes)

    @property
    def correction_sizes(self) -> list[int]:
        """Bytes of each correction, in the order in which the dealer sends them."""
        return [planes * height * width * WORD_BYTES for planes, height, width in self.corrections]

    @property
    def sent_bytes(self) -> int:
        """Bytes that each server sends to the other."""
        return sum(item.words for item in self.items) * WORD_BYTES

    @property
    def dealt_bytes(self) -> int:
        """Bytes of corrections that the dealer sends to B."""
        return sum(self.correction_sizes)

    @property
    def expected_flags(self) -> float:
        """Flagged elements to expect in one evaluation: nearly the probability that it has to be repeated."""
        return sum(flag_probability(item.magnitude_bits, item.words) for item in self.items if isinstance(item, WireItem))


def masked_plan(network: Network, height: int, width: int) -> MaskedPlan:
    """Derive the plan. Raises NetworkDescriptionError where the network does not fit the size or the engine."""
    lowered = lower(network, height, width)
    inputs: list[tuple[str, Shape]] = [(IMAGE_WIRE, (1, height, width))]
    if network.conditioned:
        inputs.append((SIGMA_WIRE, (1, 1, 1)))
    items: dict[int, list[Item]] = {0: [InputItem(number, wire, shape) for number, (wire, shape) in enumerate(inputs)]}
    local: dict[int, list[Layer]] = {}
    depth = {IMAGE_WIRE: 0}
    number = len(inputs)
    for layer in lowered.layers:
        start = max(depth[source] for source in layer.sources)
        steps = [] if isinstance(layer, LINEAR) else _items(number, layer, lowered, network)
        for step, item in enumerate(steps, start=1):
            items.setdefault(start + step, []).append(item)
        number += len(steps)
        depth[layer.out] = start + len(steps)
        if not steps:
            local.setdefault(start, []).append(layer)
    levels = tuple(Level(tuple(items[index]), tuple(local.get(index, []))) for index in range(len(items)))
    return MaskedPlan(network, height, width, lowered, levels)


def _items(number: int, layer: Layer, lowered: Lowered, network: Network) -> list[Item]:
    """What one layer opens, one after the other. A product has `fine` fractional bits, its wire has fewer."""
    formats = [lowered.formats[source] for source in layer.sources]
    wire, source = lowered.formats[layer.out], formats[0]
    if isinstance(layer, Relu):
        return _relu(number, layer.out, source)

    def cut(fine: int) -> tuple[int, int]:
        shift, size = fine - wire.frac_bits, fine + wire.magnitude_bits
        if shift < 0 or size >= RING_BITS - 1:
            raise NetworkDescriptionError(
                f"{layer.out}: {size} bits, truncated by {shift}, do not fit the ring; correct its range in the description"
            )
        return shift, size

    place = (number, layer.out, wire.shape)
    match layer:
        case Conv():
            fine = source.frac_bits + network.weight_frac_bits
            shape = layer.parameters([source.shape])[layer.weight_name]
            bias = layer.bias_name if layer.bias else ""
            return [ConvItem(*place, *cut(fine), layer.weight_name, bias, shape, layer.geometry, fine - FRAC_BITS)]
        case Linear():
            fine = source.frac_bits + network.weight_frac_bits
            shape = (*layer.parameters([source.shape])[layer.weight_name], 1, 1)
            names = (layer.weight_name, layer.bias_name)
            return [ConvItem(*place, *cut(fine), *names, shape, ConvGeometry(), fine - FRAC_BITS, flattens=True)]
        case Gate() | Product():
            return [ProductItem(*place, *cut(source.frac_bits + formats[-1].frac_bits))]
        case Scale():
            return [ScaleItem(*place, *cut(source.frac_bits + FRAC_BITS), round(layer.factor * (1 << FRAC_BITS)))]
        case AvgPool():
            rows, columns = layer.window([source.shape])
            multiplier, added = reciprocal(rows * columns)
            lift = max(0, wire.frac_bits - source.frac_bits - added)  # a small window of a coarse wire adds too few bits
            return [ScaleItem(*place, *cut(source.frac_bits + added + lift), multiplier << lift)]
    raise AssertionError(f"no opening of {layer.op}")  # a layer type was added without this case


def _relu(number: int, name: str, source: WireFormat) -> list[Item]:
    bits = max(source.sign_bits, LEAST_SIGN_BITS)
    check_sign(name, bits, MAX_SIGN_BITS)
    channels, height, width = source.shape
    packed = plane_words(channels * height * width)
    circuit = (source.shape, bits)
    return [
        ReluBitsItem(number, name, (SignBits(bits).masked_bits, 1, packed), *circuit),
        ReluSignItem(number + 1, name, (1, 1, packed), *circuit),
        ReluItem(number + 2, name, source.shape, *circuit),
    ]


def reciprocal(count: int) -> tuple[int, int]:
    """(m, k) with m / 2^k close to 1 / count: exact for a power of two, else to MEAN_BITS bits."""
    exponent = (count - 1).bit_length()
    added = exponent if count == 1 << exponent else exponent + MEAN_BITS
    return round((1 << added) / count), added
