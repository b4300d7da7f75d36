"""The network description: a short list of layers, with shape inference.

Plan, secure evaluation, float evaluation and the fixed-point oracle are all derived from it, so they cannot disagree
on what a network is. Public: servers, dealer and edge all know it. A wire is named once, by the layer that writes it.

The gate is SimpleGate of NAFNet (Chen, Chu, Zhang, Sun: Simple Baselines for Image Restoration, ECCV 2022): a product of
the two channel halves, which on shares needs no comparison.
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import FRAC_BITS
from protocols.ring import ConvGeometry

Shape = tuple[int, int, int]  # channels, height, width
IMAGE_WIRE: Final = "image"
MIN_SIDE: Final = 8  # smaller images have no room for a receptive field
MAX_LAYERS: Final = 512
MAX_CHANNELS: Final = 4096
MAX_INTEGER: Final = 1 << 22  # of any attribute: products of a few stay exact and small
MAX_REACH: Final = 512  # dilation * (kernel - 1): more would only pad an image with more zeros than it has pixels
MAX_FACTOR: Final = 1024.0  # of a public scale: at 16 fractional bits a larger one leaves the range of every wire
FRAC_BITS_RANGE: Final = (8, 20)  # of a wire: coarser loses grey levels, finer leaves no headroom
MAGNITUDE_RANGE: Final = (-8, 20)
WIRE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # names stand in messages, logs and tensor names


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise NetworkDescriptionError(message)


@dataclass(frozen=True)
class Layer:
    """One step: reads the wires `sources`, writes the wire `out`."""

    out: str
    op: ClassVar[str]

    @property
    def sources(self) -> tuple[str, ...]:
        return (cast(str, getattr(self, "source")),)  # noqa: B009 - a field of most subclasses

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the secret tensors of this layer."""
        return {}

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the wire written. Raises NetworkDescriptionError where the inputs do not fit."""
        return inputs[0]


@dataclass(frozen=True)
class Conv(Layer):
    """Two-dimensional cross-correlation with zero padding, and a bias."""

    op = "conv"
    source: str
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True

    @property
    def geometry(self) -> ConvGeometry:
        return ConvGeometry(self.stride, self.padding, self.dilation, self.groups)

    @property
    def weight_name(self) -> str:
        return f"{self.out}.weight"

    @property
    def bias_name(self) -> str:
        return f"{self.out}.bias"

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, tuple[int, ...]]:
        channels = inputs[0][0]
        _require(
            channels % self.groups == 0 and self.out_channels % self.groups == 0,
            f"{self.out}: {channels} and {self.out_channels} channels are not multiples of {self.groups} groups",
        )
        weight = (self.out_channels, channels // self.groups, self.kernel, self.kernel)
        return {self.weight_name: weight} | ({self.bias_name: (self.out_channels,)} if self.bias else {})

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        _, height, width = inputs[0]
        reach = self.dilation * (self.kernel - 1)
        _require(
            self.padding <= reach <= MAX_REACH,
            f"{self.out}: a kernel that reaches {reach} pixels (at most {MAX_REACH}) cannot be padded by {self.padding}",
        )
        size = self.geometry.output_size
        out = (self.out_channels, size(height, self.kernel), size(width, self.kernel))
        _require(min(out) > 0, f"{self.out}: a {height}x{width} input is too small for a {self.kernel}x{self.kernel} kernel")
        return out


@dataclass(frozen=True)
class Linear(Layer):
    """A matrix on the flattened input; the output has shape (out_features, 1, 1)."""

    op = "linear"
    source: str
    out_features: int

    @property
    def weight_name(self) -> str:
        return f"{self.out}.weight"

    @property
    def bias_name(self) -> str:
        return f"{self.out}.bias"

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, tuple[int, ...]]:
        channels, height, width = inputs[0]
        return {self.weight_name: (self.out_features, channels * height * width), self.bias_name: (self.out_features,)}

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        return (self.out_features, 1, 1)


@dataclass(frozen=True)
class Gate(Layer):
    """SimpleGate: the first half of the channels times the second half."""

    op = "gate"
    source: str

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        channels, height, width = inputs[0]
        _require(channels % 2 == 0, f"{self.out}: a gate needs an even number of channels, not {channels}")
        return (channels // 2, height, width)


@dataclass(frozen=True)
class Product(Layer):
    """Element-wise product; `right` may be (c, 1, 1) and is then repeated over the plane (channel attention)."""

    op = "product"
    left: str
    right: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.left, self.right)

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        left, right = inputs
        _require(right in (left, (left[0], 1, 1)), f"{self.out}: cannot multiply {left} by {right}")
        return left


@dataclass(frozen=True)
class Add(Layer):
    """Element-wise sum of two wires of one shape."""

    op = "add"
    left: str
    right: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.left, self.right)

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        _require(inputs[0] == inputs[1], f"{self.out}: cannot add {inputs[0]} and {inputs[1]}")
        return inputs[0]


@dataclass(frozen=True)
class Concat(Layer):
    """Concatenation of two wires along the channels."""

    op = "concat"
    left: str
    right: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.left, self.right)

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        left, right = inputs
        _require(left[1:] == right[1:], f"{self.out}: cannot concatenate planes of {left[1:]} and {right[1:]}")
        return (left[0] + right[0], *left[1:])


@dataclass(frozen=True)
class Scale(Layer):
    """Multiplication by a public constant."""

    op = "scale"
    source: str
    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", float(self.factor))  # 2 and 2.0 are one network and have one digest
        _require(abs(self.factor) <= MAX_FACTOR, f"{self.out}: the factor {self.factor} is not within +-{MAX_FACTOR:g}")


@dataclass(frozen=True)
class SigmaMap(Layer):
    """One channel that holds the noise level everywhere, as large as the plane of `source`. Its value is secret."""

    op = "sigma_map"
    source: str

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        return (1, *inputs[0][1:])


@dataclass(frozen=True)
class PixelUnshuffle(Layer):
    """Space to depth, as torch.nn.PixelUnshuffle."""

    op = "pixel_unshuffle"
    source: str
    factor: int

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        channels, height, width = inputs[0]
        _require(
            height % self.factor == 0 and width % self.factor == 0,
            f"{self.out}: {height}x{width} is no multiple of {self.factor}: raise the network's `multiple`",
        )
        return (channels * self.factor**2, height // self.factor, width // self.factor)


@dataclass(frozen=True)
class PixelShuffle(Layer):
    """Depth to space, as torch.nn.PixelShuffle."""

    op = "pixel_shuffle"
    source: str
    factor: int

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        channels, height, width = inputs[0]
        _require(channels % self.factor**2 == 0, f"{self.out}: {channels} channels are no multiple of {self.factor**2}")
        return (channels // self.factor**2, height * self.factor, width * self.factor)


@dataclass(frozen=True)
class Pool(Layer):
    """Square windows side by side; kernel 0 means the whole plane."""

    source: str
    kernel: int

    def window(self, inputs: Sequence[Shape]) -> tuple[int, int]:
        """Height and width of one pooling window."""
        return (self.kernel, self.kernel) if self.kernel else inputs[0][1:]

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        channels, height, width = inputs[0]
        rows, columns = self.window(inputs)
        _require(height >= rows and width >= columns, f"{self.out}: {height}x{width} is smaller than the window")
        return (channels, height // rows, width // columns)


@dataclass(frozen=True)
class AvgPool(Pool):
    """Mean of each window."""

    op = "avg_pool"


@dataclass(frozen=True)
class MaxPool(Pool):
    """Largest value of each window: a tournament of comparisons."""

    op = "max_pool"


@dataclass(frozen=True)
class Relu(Layer):
    """max(x, 0): a comparison, the dearest step on shares."""

    op = "relu"
    source: str


TRUNCATED: Final = (Conv, Linear, Gate, Product, Scale, AvgPool)  # their result has more fractional bits than their wire

LAYER_TYPES: Final[Mapping[str, type[Layer]]] = {
    kind.op: kind
    for kind in (
        Conv,
        Linear,
        Gate,
        Product,
        Add,
        Concat,
        Scale,
        SigmaMap,
        PixelUnshuffle,
        PixelShuffle,
        AvgPool,
        MaxPool,
        Relu,
    )
}


@dataclass(frozen=True)
class WireRange:
    """The fixed-point format of a wire whose products are truncated, on the masked engine. Public, and bound by the digest.

    |value| < 2^magnitude_bits on every image in [-1, 2], as measured over hostile inputs with a margin (training.bounds): beyond
    it truncation fails silently (protocols.truncation). A smaller sum of both makes flags rarer.
    """

    frac_bits: int = FRAC_BITS
    magnitude_bits: int = 6

    def __post_init__(self) -> None:
        for name, (low, high) in (("frac_bits", FRAC_BITS_RANGE), ("magnitude_bits", MAGNITUDE_RANGE)):
            value = getattr(self, name)
            _require(type(value) is int and low <= value <= high, f"{name} must be in {low}..{high}, not {value!r:.80}")


@dataclass(frozen=True)
class Network:
    """Layers in order of evaluation; the last one writes the output.

    multiple: height and width are extended to multiples of this by repeating the edge, and the output is cropped back.
    weight_frac_bits: the grid of the convolution weights; a coarse grid makes the products, and CrypTen's silent
    truncation failures, smaller (docs/architecture.md#range).
    ranges: the format of truncated wires, by name; those that are not named have WireRange().
    """

    layers: tuple[Layer, ...]
    multiple: int = 1
    weight_frac_bits: int = 16
    ranges: tuple[tuple[str, WireRange], ...] = ()

    def __post_init__(self) -> None:
        _require(0 < len(self.layers) <= MAX_LAYERS, f"a network has 1 to {MAX_LAYERS} layers, not {len(self.layers)}")
        for name, low, high in (("multiple", 1, 64), ("weight_frac_bits", 8, 16)):
            value = getattr(self, name)
            good = type(value) is int and low <= value <= high
            _require(good, f"{name} must be an integer in {low}..{high}, not {value!r:.80}")
        known = {IMAGE_WIRE}
        for layer in self.layers:
            _require(WIRE_NAME.fullmatch(layer.out) is not None, f"{layer.out[:80]!r} is no name for a wire")
            for source in layer.sources:
                _require(source in known, f"{layer.out}: reads the unknown wire {source[:80]!r}")
            _require(layer.out not in known, f"the wire {layer.out!r} is written twice")
            known.add(layer.out)
        named = [name for name, _ in self.ranges]
        truncated = {layer.out for layer in self.layers if isinstance(layer, TRUNCATED)}
        _require(named == sorted(set(named)), "ranges must name each wire once, in order")
        for name in named:
            _require(name in truncated, f"ranges: {name[:80]!r} is no wire that is truncated")
        self.parameter_shapes()

    def range_of(self, wire: str) -> WireRange:
        """The format of a truncated wire."""
        return dict(self.ranges).get(wire, WireRange())

    @property
    def conditioned(self) -> bool:
        """Whether the network reads the noise level."""
        return any(isinstance(layer, SigmaMap) for layer in self.layers)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width rounded up to the network's multiple."""
        return tuple(-(-size // self.multiple) * self.multiple for size in (height, width))  # type: ignore[return-value]

    def wire_shapes(self, height: int, width: int) -> dict[str, Shape]:
        """The shape of every wire for an image of this size. Raises NetworkDescriptionError."""
        _require(min(height, width) >= MIN_SIDE, f"the image is {height}x{width}; each side needs at least {MIN_SIDE} pixels")
        shapes: dict[str, Shape] = {IMAGE_WIRE: (1, *self.padded_size(height, width))}
        for layer in self.layers:
            shape = layer.shape([shapes[source] for source in layer.sources])
            _require(shape[0] <= MAX_CHANNELS, f"{layer.out}: {shape[0]} channels; at most {MAX_CHANNELS} are supported")
            shapes[layer.out] = shape
        return shapes

    def output_shape(self, height: int, width: int) -> Shape:
        """Shape of the result: cropped to the image where the last wire is as large as the padded image."""
        shape = self.wire_shapes(height, width)[self.layers[-1].out]
        return (shape[0], height, width) if shape[1:] == self.padded_size(height, width) else shape

    def parameter_shapes(self, height: int = 64, width: int = 64) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all secret tensors, in order. Only `linear` depends on the image's size."""
        shapes = self.wire_shapes(height, width)
        out: dict[str, tuple[int, ...]] = {}
        for layer in self.layers:
            out |= layer.parameters([shapes[source] for source in layer.sources])
        return out

    def to_json(self) -> str:
        """Canonical text: the same network gives the same bytes."""
        layers = [{"op": layer.op} | dataclasses.asdict(layer) for layer in self.layers]
        content: dict[str, Any] = {"layers": layers, "multiple": self.multiple, "weight_frac_bits": self.weight_frac_bits}
        if self.ranges:
            content["ranges"] = {name: dataclasses.asdict(wire) for name, wire in self.ranges}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Network":
        """Parse a description from a model file or a peer. Raises NetworkDescriptionError."""
        try:
            content = json.loads(text)
            layers = tuple(_layer(entry) for entry in content.pop("layers"))
            ranges = tuple(sorted((name, WireRange(**entry)) for name, entry in content.pop("ranges", {}).items()))
            return cls(layers=layers, ranges=ranges, **content)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise NetworkDescriptionError(f"malformed network description: {error!s:.200}") from error

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical text."""
        return hashlib.sha256(self.to_json().encode()).digest()


def _layer(entry: dict[str, Any]) -> Layer:
    kind = LAYER_TYPES.get(entry.get("op", ""))
    if kind is None:
        raise NetworkDescriptionError(f"unknown layer {entry.get('op')!r:.80}; known are {', '.join(LAYER_TYPES)}")
    values = {key: value for key, value in entry.items() if key != "op"}
    types = {f.name: f.type for f in dataclasses.fields(kind)}
    for key, value in values.items():
        place = f"{entry.get('out')!s:.80}: {key:.80}"
        expected = types.get(key)
        _require(expected is not None, f"{place} is no attribute of {kind.op}")
        good = type(value) in (int, float) if expected is float else type(value) is expected
        _require(good, f"{place} must be {expected}, not {value!r:.80}")
        if expected is int:
            low = 0 if key == "padding" or issubclass(kind, Pool) else 1
            _require(low <= value <= MAX_INTEGER, f"{place} must be in {low}..{MAX_INTEGER}, not {value!r:.80}")
    made = cast(Callable[..., Layer], kind)
    return made(**{key: float(value) if types[key] is float else value for key, value in values.items()})


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
