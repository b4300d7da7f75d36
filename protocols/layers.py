"""The layers of a network description, with shape inference. A wire is named once, by the layer that writes it. Public.

The gate is SimpleGate of NAFNet (Chen, Chu, Zhang, Sun: Simple Baselines for Image Restoration, ECCV 2022): a product of
the two channel halves, which on shares needs no comparison.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import ENCODING_LIMIT, FRAC_BITS
from protocols.ring import ConvGeometry

Shape = tuple[int, int, int]  # channels, height, width
MAX_INTEGER: Final = 1 << 22  # of any attribute: products of a few stay exact and small
MAX_REACH: Final = 512  # dilation * (kernel - 1): more would only pad an image with more zeros than it has pixels
MAX_FACTOR: Final = 1024.0  # of a public scale: at 16 fractional bits a larger one leaves the range of every wire


def require(condition: bool, message: str) -> None:
    """Raises NetworkDescriptionError with the message where the condition does not hold."""
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
        require(
            channels % self.groups == 0 and self.out_channels % self.groups == 0,
            f"{self.out}: {channels} and {self.out_channels} channels are not multiples of {self.groups} groups",
        )
        weight = (self.out_channels, channels // self.groups, self.kernel, self.kernel)
        return {self.weight_name: weight} | ({self.bias_name: (self.out_channels,)} if self.bias else {})

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        _, height, width = inputs[0]
        reach = self.dilation * (self.kernel - 1)
        require(
            self.padding <= reach <= MAX_REACH,
            f"{self.out}: a kernel that reaches {reach} pixels (at most {MAX_REACH}) cannot be padded by {self.padding}",
        )
        size = self.geometry.output_size
        out = (self.out_channels, size(height, self.kernel), size(width, self.kernel))
        require(min(out) > 0, f"{self.out}: a {height}x{width} input is too small for a {self.kernel}x{self.kernel} kernel")
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
        require(channels % 2 == 0, f"{self.out}: a gate needs an even number of channels, not {channels}")
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
        require(right in (left, (left[0], 1, 1)), f"{self.out}: cannot multiply {left} by {right}")
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
        require(inputs[0] == inputs[1], f"{self.out}: cannot add {inputs[0]} and {inputs[1]}")
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
        require(left[1:] == right[1:], f"{self.out}: cannot concatenate planes of {left[1:]} and {right[1:]}")
        return (left[0] + right[0], *left[1:])


@dataclass(frozen=True)
class Scale(Layer):
    """Multiplication by a public constant."""

    op = "scale"
    source: str
    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", float(self.factor))  # 2 and 2.0 are one network and have one digest
        require(abs(self.factor) <= MAX_FACTOR, f"{self.out}: the factor {self.factor} is not within +-{MAX_FACTOR:g}")


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
        require(
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
        require(channels % self.factor**2 == 0, f"{self.out}: {channels} channels are no multiple of {self.factor**2}")
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
        require(height >= rows and width >= columns, f"{self.out}: {height}x{width} is smaller than the window")
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


@dataclass(frozen=True)
class Clamp(Layer):
    """min(max(x, low), high), exactly: two comparisons with public bounds, in units of the wire's value, on the grid of 2^-16."""

    op = "clamp"
    source: str
    low: float
    high: float

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            bound = float(getattr(self, name)) + 0.0  # 1 and 1.0 are one network and have one digest, and so are -0.0 and 0.0
            object.__setattr__(self, name, bound)
            place = f"{self.out}: {name}"
            require(abs(bound) <= ENCODING_LIMIT, f"{place} is {bound}, not within +-{ENCODING_LIMIT:g}")
            require((bound * (1 << FRAC_BITS)).is_integer(), f"{place} is {bound}, which is no multiple of 2^-{FRAC_BITS}")
        require(self.low < self.high, f"{self.out}: low is {self.low}, which is not below high, {self.high}")


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
        Clamp,
    )
}


def layer_from(entry: dict[str, Any]) -> Layer:
    """A layer from an entry of a description. Raises NetworkDescriptionError, or what a wrong type raises."""
    kind = LAYER_TYPES.get(entry.get("op", ""))
    if kind is None:
        raise NetworkDescriptionError(f"unknown layer {entry.get('op')!r:.80}; known are {', '.join(LAYER_TYPES)}")
    values = {key: value for key, value in entry.items() if key != "op"}
    types = {f.name: f.type for f in dataclasses.fields(kind)}
    for key, value in values.items():
        place = f"{entry.get('out')!s:.80}: {key:.80}"
        expected = types.get(key)
        require(expected is not None, f"{place} is no attribute of {kind.op}")
        good = type(value) in (int, float) if expected is float else type(value) is expected
        require(good, f"{place} must be {expected}, not {value!r:.80}")
        if expected is int:
            low = 0 if key == "padding" or issubclass(kind, Pool) else 1
            require(low <= value <= MAX_INTEGER, f"{place} must be in {low}..{MAX_INTEGER}, not {value!r:.80}")
    made = cast(Callable[..., Layer], kind)
    return made(**{key: float(value) if types[key] is float else value for key, value in values.items()})
