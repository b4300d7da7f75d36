"""The gated denoisers: ReLU-free networks built from the layers of `protocols.network`.

A family, from which `training.search` chooses: after NAFNet (Chen, Chu, Zhang, Sun: Simple Baselines for Image Restoration, ECCV
2022) without its normalisation, which on shares would cost a division, and at half or quarter resolution, which makes every
wire 4 or 16 times cheaper. The noise level is a channel, as in FFDNet (Zhang, Zuo, Zhang, IEEE TIP 2018).

On shares a wire costs 8 bytes and a multiplication next to nothing, so blocks of full 3x3 convolutions stand beside NAFNet's
depthwise ones: the same wires, ten times the multiplications.

Training differentiates the very description that is shipped (`protocols.float_evaluation`).
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from protocols.errors import ConfigurationError
from protocols.layers import Add, AvgPool, Concat, Conv, Gate, Layer, PixelShuffle, PixelUnshuffle, Product, Relu, SigmaMap
from protocols.network import IMAGE_WIRE, Network

WEIGHT_FRAC_BITS: Final = 10  # halves the flags of 11 for 0.01 dB; with 9, inner wires need more bits than that saves
BRANCH_GAIN: Final = 0.1  # a branch starts as a small correction: products of unscaled branches diverge
BRANCH_END: Final = "project"
INNER: Final = "block"  # how the blocks of a flat network, or at the lower resolution of a U, are called
WEIGH: Final = "weigh"  # the convolution of a channel attention
BLOCKS: Final = ("nafnet", "gate", "direct")


@dataclass(frozen=True)
class GatedShape:
    """One member of the family.

    kernel: of the blocks' spatial convolutions; of direct blocks in a U, those at the lower resolution, where the others have 3.
    factor: of the pixel-unshuffle at the entry. block: one of BLOCKS. outer: blocks at the entry's resolution on each side of
    a U, whose `blocks` then lie at half of it with twice the channels; 0 is a flat network. attention: 1 weighs the channels
    of every gate by a linear function of their means over the plane (NAFNet's simplified channel attention).
    """

    channels: int = 32
    blocks: int = 4
    kernel: int = 3
    factor: int = 2
    block: str = "nafnet"
    outer: int = 0
    attention: int = 0

    def __post_init__(self) -> None:
        sizes = 1 <= self.channels <= 256 and 1 <= self.blocks <= 32 and self.kernel in (1, 3, 5, 7)
        if not (sizes and self.factor in (1, 2, 4, 8) and 0 <= self.outer <= 16 and self.attention in (0, 1)):
            raise ConfigurationError(
                f"[network] {self}: channels must be in 1..256, blocks in 1..32, kernel 1, 3, 5 or 7, factor 1, 2, 4 or 8, "
                "outer in 0..16, attention 0 or 1; correct the configuration"
            )
        if self.block not in BLOCKS:
            raise ConfigurationError(f"[network] block {self.block!r} is unknown; known are {', '.join(BLOCKS)}")

    def network(self) -> Network:
        """The description that these sizes give."""
        return gated_network(self)


def gated_network(shape: GatedShape) -> Network:
    """A residual denoiser of one grey channel for images of any size."""
    layers: list[Layer] = [
        PixelUnshuffle("folded", IMAGE_WIRE, shape.factor),
        SigmaMap("sigma", "folded"),
        Concat("entry", "folded", "sigma"),
        Conv("block0", "entry", shape.channels, kernel=3, padding=1),
    ]
    last = "block0"
    if shape.outer:
        last = _row(layers, "left", last, shape.outer, shape.channels, shape)
        skip = last
        layers.append(Conv("down", last, 2 * shape.channels, kernel=2, stride=2))
        last = _row(layers, INNER, "down", shape.blocks, 2 * shape.channels, shape)
        layers += [
            Conv("rise", last, 4 * shape.channels, kernel=1),
            PixelShuffle("up", "rise", 2),
            Add("joined", skip, "up"),
        ]
        last = _row(layers, "right", "joined", shape.outer, shape.channels, shape)
    else:
        last = _row(layers, INNER, last, shape.blocks, shape.channels, shape)
    layers += [
        Conv(f"exit.{BRANCH_END}", last, shape.factor**2, kernel=3, padding=1),
        PixelShuffle("correction", f"exit.{BRANCH_END}", shape.factor),
        Add("output", IMAGE_WIRE, "correction"),
    ]
    return Network(tuple(layers), multiple=shape.factor * (2 if shape.outer else 1), weight_frac_bits=WEIGHT_FRAC_BITS)


def _row(layers: list[Layer], name: str, source: str, count: int, channels: int, shape: GatedShape) -> str:
    """Append `count` blocks, one after the other; the name of the last one's wire."""
    for index in range(1, count + 1):
        out = f"{name}{index}"
        match shape.block:
            case "nafnet":
                layers += _nafnet(out, source, channels, shape)
            case "gate":
                layers += _gate(out, source, channels, shape)
            case _:
                layers += _direct(out, source, channels, shape)
        source = out
    return source


def _nafnet(out: str, source: str, channels: int, shape: GatedShape) -> list[Layer]:
    """NAFNet's block: 10 wires a channel; a depthwise filter, and two gates."""
    wide = 2 * channels
    weighed, attention = _attention(f"{out}.space.gate", channels, shape)
    return [
        Conv(f"{out}.space.widen", source, wide, kernel=1),
        Conv(f"{out}.space.filter", f"{out}.space.widen", wide, kernel=shape.kernel, padding=shape.kernel // 2, groups=wide),
        Gate(f"{out}.space.gate", f"{out}.space.filter"),
        *attention,
        Conv(f"{out}.space.{BRANCH_END}", weighed, channels, kernel=1),
        Add(f"{out}.space", source, f"{out}.space.{BRANCH_END}"),
        Conv(f"{out}.mix.widen", f"{out}.space", wide, kernel=1),
        Gate(f"{out}.mix.gate", f"{out}.mix.widen"),
        Conv(f"{out}.mix.{BRANCH_END}", f"{out}.mix.gate", channels, kernel=1),
        Add(out, f"{out}.space", f"{out}.mix.{BRANCH_END}"),
    ]


def _gate(out: str, source: str, channels: int, shape: GatedShape) -> list[Layer]:
    """A full convolution, a gate and a 1x1 convolution: 4 wires a channel."""
    weighed, attention = _attention(f"{out}.gate", channels, shape)
    return [
        Conv(f"{out}.filter", source, 2 * channels, kernel=shape.kernel, padding=shape.kernel // 2),
        Gate(f"{out}.gate", f"{out}.filter"),
        *attention,
        Conv(f"{out}.{BRANCH_END}", weighed, channels, kernel=1),
        Add(out, source, f"{out}.{BRANCH_END}"),
    ]


def _direct(out: str, source: str, channels: int, shape: GatedShape) -> list[Layer]:
    """A full convolution and a gate, whose output is the branch: 3 wires a channel, two rounds."""
    weighed, attention = _attention(f"{out}.gate", channels, shape)
    kernel = shape.kernel if out.startswith(INNER) else 3
    return [
        Conv(f"{out}.filter", source, 2 * channels, kernel=kernel, padding=kernel // 2),
        Gate(f"{out}.gate", f"{out}.filter"),
        *attention,
        Add(out, source, weighed),
    ]


def _attention(gate: str, channels: int, shape: GatedShape) -> tuple[str, list[Layer]]:
    """The wire to read instead of the gate's, and the layers that make it. Opens the gate's wire once more."""
    if not shape.attention:
        return gate, []
    mean, weigh, weighed = f"{gate}.mean", f"{gate}.{WEIGH}", f"{gate}.weighed"
    return weighed, [AvgPool(mean, gate, kernel=0), Conv(weigh, mean, channels, kernel=1), Product(weighed, gate, weigh)]


def initial_weights(network: Network, seed: int) -> dict[str, Tensor]:
    """Seeded weights: standard deviation 1/sqrt(fan in), scaled by BRANCH_GAIN where a branch ends, and by sqrt(2) before a ReLU.

    The second half of a gate's input starts near 1, so that an untrained gate passes its first half on: without it
    both factors of every product start small, and so do their gradients. A channel attention starts near 1 likewise.
    """
    generator = torch.Generator().manual_seed(seed)
    rectified = {f"{layer.source}.weight" for layer in network.layers if isinstance(layer, Relu)}
    weights: dict[str, Tensor] = {}
    for name, shape in network.parameter_shapes().items():
        if name.endswith(".bias"):
            weights[name] = torch.full(shape, 1.0 if name.endswith(f"{WEIGH}.bias") else 0.0)
        else:
            gain = BRANCH_GAIN if name.endswith((f"{BRANCH_END}.weight", f"{WEIGH}.weight")) else 1.0
            gain *= 2**0.5 if name in rectified else 1.0
            fan_in = shape[1] * shape[2] * shape[3]
            weights[name] = torch.randn(shape, generator=generator) * (gain * fan_in**-0.5)
    ends = {source for layer in network.layers if isinstance(layer, Add | Product) for source in layer.sources}
    for layer in network.layers:
        if isinstance(layer, Gate):
            bias = weights[f"{layer.source}.bias"]
            half = bias.shape[0] // 2
            bias[half:] = 1.0
            if layer.out in ends and f"{layer.out.removesuffix('.gate')}.{BRANCH_END}.weight" not in weights:
                weights[f"{layer.source}.weight"][:half] *= BRANCH_GAIN  # the gate itself ends the branch
    return weights


def on_grid(network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as `client.model_file.save_model` writes them: convolution weights rounded to the network's grid."""
    scale = float(1 << network.weight_frac_bits)
    return {name: torch.round(w * scale) / scale if name.endswith(".weight") else w for name, w in weights.items()}
