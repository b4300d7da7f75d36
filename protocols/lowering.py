"""A network as the masked engine evaluates it: max-pools and clamps taken apart, and the fixed-point format of every wire.

Lowered layers have names that no description can have, and are never written to one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import FRAC_BITS
from protocols.layers import TRUNCATED, Add, Clamp, Concat, Layer, MaxPool, Pool, Relu, Shape, SigmaMap
from protocols.network import IMAGE_WIRE, Network

IMAGE_MAGNITUDE_BITS = 2  # the client refuses pixels outside [-1, 2]
SIGMA_MAGNITUDE_BITS = 1


@dataclass(frozen=True)
class Windows(Pool):
    """The members of each pooling window, stacked along the channels."""

    op = "windows"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        channels, height, width = super().shape(inputs)
        rows, columns = self.window(inputs)
        return (channels * rows * columns, height, width)


@dataclass(frozen=True)
class Channels(Layer):
    """Some of the channels."""

    op = "channels"
    source: str
    first: int
    last: int  # not included

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        return (self.last - self.first, *inputs[0][1:])


@dataclass(frozen=True)
class Subtract(Add):
    """Element-wise difference of two wires of one shape."""

    op = "subtract"


@dataclass(frozen=True)
class Larger(Add):
    """The sum of a wire and of how far another exceeds it: their maximum, which is no larger than either may be."""

    op = "larger"


@dataclass(frozen=True)
class Offset(Layer):
    """A wire plus a public constant: on the grid of the wire, or on the constant's own where that is finer."""

    op = "offset"
    source: str
    value: float


@dataclass(frozen=True)
class Clamped(Subtract):
    """How far a wire exceeds `low`, less how far it exceeds `high`: this plus `low` is the wire between the two."""

    op = "clamped"
    low: float
    high: float


@dataclass(frozen=True)
class WireFormat:
    """frac_bits: of the wire. magnitude_bits: |value| < 2^magnitude_bits."""

    shape: Shape
    frac_bits: int
    magnitude_bits: int

    @property
    def sign_bits(self) -> int:
        """Bits that hold the wire in two's complement, with one to spare for the carry of its truncation."""
        return self.frac_bits + self.magnitude_bits + 2


@dataclass(frozen=True)
class Lowered:
    """Layers in order of evaluation, and the format of each wire for one image size."""

    layers: tuple[Layer, ...]
    formats: Mapping[str, WireFormat]

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        return {layer.out: layer for layer in self.layers}

    @property
    def output(self) -> str:
        return self.layers[-1].out


def lower(network: Network, height: int, width: int) -> Lowered:
    """Raises NetworkDescriptionError where the network does not fit the size."""
    network.wire_shapes(height, width)  # refuses what is too large before anything is built from it
    padded = (1, *network.padded_size(height, width))
    formats = {IMAGE_WIRE: WireFormat(padded, FRAC_BITS, IMAGE_MAGNITUDE_BITS)}
    layers: list[Layer] = []
    for described in network.layers:
        match described:
            case MaxPool():
                parts = _max_pool(described, formats[described.source].shape)
            case Clamp():
                parts = _clamp(described)
            case _:
                parts = [described]
        for layer in parts:
            formats[layer.out] = _format(layer, [formats[source] for source in layer.sources], network)
            layers.append(layer)
    return Lowered(tuple(layers), formats)


def _format(layer: Layer, sources: Sequence[WireFormat], network: Network) -> WireFormat:
    """The format of what a layer writes."""
    shape = layer.shape([source.shape for source in sources])
    if isinstance(layer, TRUNCATED):
        wire = network.range_of(layer.out)
        return WireFormat(shape, wire.frac_bits, wire.magnitude_bits)
    if isinstance(layer, SigmaMap):
        return WireFormat(shape, FRAC_BITS, SIGMA_MAGNITUDE_BITS)
    frac_bits = max(source.frac_bits for source in sources)
    match layer:
        case Larger():
            return WireFormat(shape, frac_bits, sources[0].magnitude_bits)
        case Offset():
            frac_bits = max(frac_bits, _grid(layer.value))
            reach = (1 << (frac_bits + sources[0].magnitude_bits)) + abs(constant_words(layer.value, frac_bits))
            return WireFormat(shape, frac_bits, (reach - 1).bit_length() - frac_bits)
        case Clamped():
            ends = [constant_words(bound, frac_bits) for bound in (layer.low, layer.high)]
            return WireFormat(shape, frac_bits, max(abs(end) for end in ends).bit_length() - frac_bits)
    magnitude = max(source.magnitude_bits for source in sources) + isinstance(layer, Add)
    return WireFormat(shape, frac_bits, magnitude)


def _max_pool(layer: MaxPool, source: Shape) -> list[Layer]:
    """A knock-out: max(l, r) = r + relu(l - r), all pairs of a level side by side along the channels."""
    channels = source[0]
    rows, columns = layer.window([source])
    if rows * columns == 1:
        return [Windows(layer.out, layer.source, layer.kernel)]
    parts: list[Layer] = []

    def name(part: str) -> str:
        return f"{layer.out}|{len(parts)}|{part}"

    def add(made: Layer) -> str:
        parts.append(made)
        return made.out

    left = add(Windows(name("windows"), layer.source, layer.kernel))
    count = rows * columns
    while count > 1:
        pairs, odd = divmod(count, 2)
        split = pairs * channels
        first, second = add(Channels(name("left"), left, 0, split)), add(Channels(name("right"), left, split, 2 * split))
        excess = add(Relu(name("excess"), add(Subtract(name("difference"), first, second))))
        last = pairs + odd == 1
        winners = add(Larger(layer.out if last else name("larger"), second, excess))
        if odd:
            winners = add(Concat(name("all"), winners, add(Channels(name("odd"), left, 2 * split, count * channels))))
        left, count = winners, pairs + odd
    return parts


def _clamp(layer: Clamp) -> list[Layer]:
    """X between its bounds is low + relu(x - low) - relu(x - high): two comparisons that share their messages."""

    def excess(bound: str, value: float) -> list[Layer]:
        name = f"{layer.out}|{bound}"
        return [Offset(f"{name}|offset", layer.source, -value), Relu(f"{name}|excess", f"{name}|offset")]

    low, high = excess("low", layer.low), excess("high", layer.high)
    return [*low, *high, Clamped(layer.out, low[-1].out, high[-1].out, layer.low, layer.high)]


def _grid(value: float) -> int:
    """The fewest fractional bits that hold a constant exactly."""
    return value.as_integer_ratio()[1].bit_length() - 1


def constant_words(value: float, frac_bits: int) -> int:
    """A public constant as a ring element, exactly. Raises NetworkDescriptionError where it does not lie on the grid."""
    words = value * (1 << frac_bits)
    if not words.is_integer():
        raise NetworkDescriptionError(f"the constant {value} is no multiple of 2^-{frac_bits}")
    return int(words)


def check_sign(wire: str, bits: int, limit: int) -> None:
    """Raises NetworkDescriptionError where a comparison is wider than the engine has a circuit for."""
    if bits > limit:
        raise NetworkDescriptionError(
            f"{wire}: a comparison of {bits} bits; at most {limit} are supported: give its source a smaller range"
        )


class WireUses:
    """How often each wire is still to be read: one that nobody reads any more is dropped, which bounds the memory."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._left = Counter(source for layer in layers for source in layer.sources)

    def read(self, layer: Layer, wires: dict[str, Any]) -> None:
        """A layer has read its sources."""
        for source in layer.sources:
            self._left[source] -= 1
            if not self._left[source]:
                wires.pop(source, None)
