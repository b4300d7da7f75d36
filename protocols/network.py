"""The network description: a short list of layers, with the format of its wires.

Plan, secure evaluation, float evaluation and the fixed-point oracle are all derived from it, so they cannot disagree
on what a network is. Public: servers, dealer and edge all know it.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import FRAC_BITS
from protocols.layers import TRUNCATED, Layer, Shape, SigmaMap, layer_from, require

IMAGE_WIRE: Final = "image"
MIN_SIDE: Final = 8  # smaller images have no room for a receptive field
MAX_LAYERS: Final = 512
MAX_CHANNELS: Final = 4096
FRAC_BITS_RANGE: Final = (8, 20)  # of a wire: coarser loses grey levels, finer leaves no headroom
MAGNITUDE_RANGE: Final = (-8, 20)
WIRE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # names stand in messages, logs and tensor names


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
            require(type(value) is int and low <= value <= high, f"{name} must be in {low}..{high}, not {value!r:.80}")


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
        require(0 < len(self.layers) <= MAX_LAYERS, f"a network has 1 to {MAX_LAYERS} layers, not {len(self.layers)}")
        for name, low, high in (("multiple", 1, 64), ("weight_frac_bits", 8, 16)):
            value = getattr(self, name)
            good = type(value) is int and low <= value <= high
            require(good, f"{name} must be an integer in {low}..{high}, not {value!r:.80}")
        known = {IMAGE_WIRE}
        for layer in self.layers:
            require(WIRE_NAME.fullmatch(layer.out) is not None, f"{layer.out[:80]!r} is no name for a wire")
            for source in layer.sources:
                require(source in known, f"{layer.out}: reads the unknown wire {source[:80]!r}")
            require(layer.out not in known, f"the wire {layer.out!r} is written twice")
            known.add(layer.out)
        named = [name for name, _ in self.ranges]
        truncated = {layer.out for layer in self.layers if isinstance(layer, TRUNCATED)}
        require(named == sorted(set(named)), "ranges must name each wire once, in order")
        for name in named:
            require(name in truncated, f"ranges: {name[:80]!r} is no wire that is truncated")
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
        require(min(height, width) >= MIN_SIDE, f"the image is {height}x{width}; each side needs at least {MIN_SIDE} pixels")
        shapes: dict[str, Shape] = {IMAGE_WIRE: (1, *self.padded_size(height, width))}
        for layer in self.layers:
            shape = layer.shape([shapes[source] for source in layer.sources])
            require(shape[0] <= MAX_CHANNELS, f"{layer.out}: {shape[0]} channels; at most {MAX_CHANNELS} are supported")
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
            layers = tuple(layer_from(entry) for entry in content.pop("layers"))
            ranges = tuple(sorted((name, WireRange(**entry)) for name, entry in content.pop("ranges", {}).items()))
            return cls(layers=layers, ranges=ranges, **content)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise NetworkDescriptionError(f"malformed network description: {error!s:.200}") from error

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical text."""
        return hashlib.sha256(self.to_json().encode()).digest()
