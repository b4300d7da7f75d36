"""The dealing plan: the whole sequence of correlated randomness that one network needs at one image size.

Derived from the public network description alone, so dealer and servers compute it independently and compare digests.
Every correlation belongs to exactly one opening: the plan's index is the label of the A-B message.

The comparison follows CrypTen's own circuit (Knott et al., CrypTen, NeurIPS 2021, section 3.4; the set-propagate-kill
adder of Damgard et al., TCC 2006, section 6.3), so that its requests arrive in exactly this order.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from protocols.identifiers import PushId
from protocols.layers import AvgPool, Clamp, Conv, Gate, Layer, Linear, MaxPool, Product, Relu, Shape
from protocols.network import Network
from protocols.ring import WORD_BYTES, ConvGeometry

ADDER_LEVELS: Final = 6  # log2 of the 64 bits of a ring element

Dims = tuple[int, ...]


def _count(dims: Dims) -> int:
    product = 1
    for size in dims:
        product *= size
    return product


@dataclass(frozen=True)
class WeightTriple:
    """Shares of a and of c = conv(a, b), where b is the mask of one weight tensor under the current push.

    Opens x - a: a_shape words. All shapes without batch axis; a linear layer is a 1x1 convolution of a 1x1 plane.
    """

    wire: str
    weight: str
    weight_shape: Dims
    a_shape: Shape
    c_shape: Shape
    geometry: ConvGeometry

    @property
    def opened_shapes(self) -> tuple[Dims, ...]:
        return (self.a_shape,)


@dataclass(frozen=True)
class ProductTriple:
    """Shares of a, b and c = a * b (broadcast) over Z_{2^64}. Opens x - a and y - b in one message."""

    wire: str
    a_shape: Dims
    b_shape: Dims

    @property
    def c_shape(self) -> Dims:
        return self.a_shape

    @property
    def opened_shapes(self) -> tuple[Dims, ...]:
        return (self.a_shape, self.b_shape)


@dataclass(frozen=True)
class AndTriple:
    """XOR shares of a, b and c = a & b, 64 bits a word. Opens x ^ a and y ^ b in one message."""

    wire: str
    a_shape: Dims

    @property
    def c_shape(self) -> Dims:
        return self.a_shape

    @property
    def opened_shapes(self) -> tuple[Dims, ...]:
        return (self.a_shape, self.a_shape)


@dataclass(frozen=True)
class SharedBit:
    """One random bit per word, shared both by XOR (low bit) and additively. Opens bit ^ r."""

    wire: str
    a_shape: Dims

    @property
    def c_shape(self) -> Dims:
        return self.a_shape

    @property
    def opened_shapes(self) -> tuple[Dims, ...]:
        return (self.a_shape,)


Correlation = WeightTriple | ProductTriple | AndTriple | SharedBit


@dataclass(frozen=True)
class Plan:
    """All correlations of one evaluation, in order of use. Public."""

    network_digest: bytes
    height: int
    width: int
    correlations: tuple[Correlation, ...]

    engine: ClassVar[str] = "crypten"

    @property
    def digest(self) -> bytes:
        """SHA-256 over network, size and every correlation: what the handshakes compare."""
        text = f"crypten-plan-1|{self.network_digest.hex()}|{self.height}x{self.width}|{self.correlations!r}"
        return hashlib.sha256(text.encode()).digest()

    def opened_words(self, index: int) -> int:
        """Ring words that each server sends in opening number `index`."""
        return sum(_count(shape) for shape in self.correlations[index].opened_shapes)

    def correction_bytes(self, index: int) -> int:
        """Bytes that the dealer sends to B for correlation number `index`."""
        return _count(self.correlations[index].c_shape) * WORD_BYTES

    @property
    def rounds(self) -> int:
        """Messages each way."""
        return len(self.correlations)

    @property
    def correction_sizes(self) -> list[int]:
        """Bytes of each correction, in the order in which the dealer sends them."""
        return [self.correction_bytes(index) for index in range(len(self.correlations))]

    @property
    def sent_bytes(self) -> int:
        """Bytes of opened wires that each server sends to the other."""
        return sum(self.opened_words(index) for index in range(len(self.correlations))) * WORD_BYTES

    @property
    def dealt_bytes(self) -> int:
        """Bytes of corrections that the dealer sends to B."""
        return sum(self.correction_bytes(index) for index in range(len(self.correlations)))


def plan_for(network: Network, height: int, width: int) -> Plan:
    """Derive the plan. Raises NetworkDescriptionError where the network does not fit the size."""
    shapes = network.wire_shapes(height, width)
    correlations: list[Correlation] = []
    for layer in network.layers:
        correlations += _layer_correlations(layer, [shapes[source] for source in layer.sources], shapes[layer.out])
    return Plan(network.digest, height, width, tuple(correlations))


def _layer_correlations(layer: Layer, inputs: list[Shape], out: Shape) -> list[Correlation]:
    match layer:
        case Conv():
            weight = layer.parameters(inputs)[layer.weight_name]
            return [WeightTriple(layer.out, layer.weight_name, weight, inputs[0], out, layer.geometry)]
        case Linear():
            features = _count(inputs[0])
            weight = (layer.out_features, features, 1, 1)
            return [WeightTriple(layer.out, layer.weight_name, weight, (features, 1, 1), out, ConvGeometry())]
        case Gate():
            return [ProductTriple(layer.out, out, out)]
        case Product():
            return [ProductTriple(layer.out, inputs[0], inputs[1])]
        case Relu():
            return list(_relu(layer.out, out))
        case Clamp():
            return list(_relu(layer.out, (2 * out[0], out[1], out[2])))  # against both bounds, side by side
        case MaxPool():
            rows, columns = layer.window(inputs)
            return [
                correlation
                for level, pairs in enumerate(tournament(rows * columns))
                for correlation in _relu(f"{layer.out}/{level}", (pairs * out[0], out[1], out[2]))
            ]
        case AvgPool() | _:
            return []


def tournament(candidates: int) -> Iterator[int]:
    """Number of comparisons on each level of a knock-out among `candidates`; an odd one out advances."""
    while candidates > 1:
        yield candidates // 2
        candidates -= candidates // 2


def _relu(wire: str, shape: Shape) -> Iterator[Correlation]:
    """CrypTen's x * (1 - [x < 0]): the generate bits, six adder levels on (S, P) side by side, B2A, one product."""
    batched: Dims = (1, *shape)
    yield AndTriple(f"{wire}/generate", batched)
    for level in range(ADDER_LEVELS):
        yield AndTriple(f"{wire}/carry{level}", (2, *batched))
    yield SharedBit(f"{wire}/sign", shape)
    yield ProductTriple(f"{wire}/select", shape, shape)


def masked_weights(network: Network, height: int, width: int) -> dict[str, Dims]:
    """Weight tensors that are masked and opened once per push, in plan order (biases are only added, never opened)."""
    plan = plan_for(network, height, width)
    return {item.weight: item.weight_shape for item in plan.correlations if isinstance(item, WeightTriple)}


def session_context(push: PushId, plan_digest: bytes, boot_a: str, boot_b: str) -> bytes:
    """What session material is bound to (DESIGN section 5)."""
    return f"{push}|{plan_digest.hex()}|{boot_a}|{boot_b}".encode()
