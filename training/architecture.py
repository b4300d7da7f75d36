"""The gated denoiser: a ReLU-free network built from the layers of `protocols.network`.

After NAFNet (Chen, Chu, Zhang, Sun: Simple Baselines for Image Restoration, ECCV 2022) without its normalisation, which
on shares would cost a division, and at half resolution, which makes every wire four times cheaper. The noise level is a
channel, as in FFDNet (Zhang, Zuo, Zhang, IEEE TIP 2018).

Training differentiates the very description that is shipped (`protocols.float_evaluation`).
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from protocols.errors import ConfigurationError
from protocols.network import IMAGE_WIRE, Add, Concat, Conv, Gate, Layer, Network, PixelShuffle, PixelUnshuffle, SigmaMap

FACTOR: Final = 2  # space to depth: wires per pixel fall by 4
WEIGHT_FRAC_BITS: Final = 12  # DESIGN section 6, truncation: a coarse weight grid keeps the flag rate low
BRANCH_GAIN: Final = 0.1  # a branch starts as a small correction: products of unscaled branches diverge
BRANCH_END: Final = "project"


@dataclass(frozen=True)
class GatedShape:
    """Width, depth and spatial kernel of a gated denoiser."""

    channels: int = 32
    blocks: int = 4
    kernel: int = 3

    def __post_init__(self) -> None:
        if not (1 <= self.channels <= 256 and 1 <= self.blocks <= 32 and self.kernel in (1, 3, 5, 7)):
            raise ConfigurationError(
                f"[network] {self}: channels must be in 1..256, blocks in 1..32, kernel 1, 3, 5 or 7; correct the configuration"
            )


def gated_network(shape: GatedShape) -> Network:
    """A residual denoiser of one grey channel for images of any size."""
    layers: list[Layer] = [
        PixelUnshuffle("folded", IMAGE_WIRE, FACTOR),
        SigmaMap("sigma", "folded"),
        Concat("entry", "folded", "sigma"),
        Conv("block0", "entry", shape.channels, kernel=3, padding=1),
    ]
    for index in range(1, shape.blocks + 1):
        layers += _block(f"block{index}", f"block{index - 1}", shape)
    layers += [
        Conv(f"exit.{BRANCH_END}", f"block{shape.blocks}", FACTOR**2, kernel=3, padding=1),
        PixelShuffle("correction", f"exit.{BRANCH_END}", FACTOR),
        Add("output", IMAGE_WIRE, "correction"),
    ]
    return Network(tuple(layers), multiple=FACTOR, weight_frac_bits=WEIGHT_FRAC_BITS)


def _block(out: str, source: str, shape: GatedShape) -> list[Layer]:
    channels, wide = shape.channels, 2 * shape.channels
    return [
        Conv(f"{out}.space.widen", source, wide, kernel=1),
        Conv(f"{out}.space.filter", f"{out}.space.widen", wide, kernel=shape.kernel, padding=shape.kernel // 2, groups=wide),
        Gate(f"{out}.space.gate", f"{out}.space.filter"),
        Conv(f"{out}.space.{BRANCH_END}", f"{out}.space.gate", channels, kernel=1),
        Add(f"{out}.space", source, f"{out}.space.{BRANCH_END}"),
        Conv(f"{out}.mix.widen", f"{out}.space", wide, kernel=1),
        Gate(f"{out}.mix.gate", f"{out}.mix.widen"),
        Conv(f"{out}.mix.{BRANCH_END}", f"{out}.mix.gate", channels, kernel=1),
        Add(out, f"{out}.space", f"{out}.mix.{BRANCH_END}"),
    ]


def initial_weights(network: Network, seed: int) -> dict[str, Tensor]:
    """Seeded weights: standard deviation 1/sqrt(fan in), the last convolution of each branch scaled by BRANCH_GAIN.

    The second half of a gate's input starts near 1, so that an untrained gate passes its first half on: without it
    both factors of every product start small, and so do their gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, shape in network.parameter_shapes().items():
        if name.endswith(".bias"):
            weights[name] = torch.zeros(shape)
        else:
            gain = BRANCH_GAIN if name.endswith(f"{BRANCH_END}.weight") else 1.0
            fan_in = shape[1] * shape[2] * shape[3]
            weights[name] = torch.randn(shape, generator=generator) * (gain * fan_in**-0.5)
    for layer in network.layers:
        if isinstance(layer, Gate):
            bias = weights[f"{layer.source}.bias"]
            bias[bias.shape[0] // 2 :] = 1.0
    return weights


def on_grid(network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as `client.model_file.save_model` writes them: convolution weights rounded to the network's grid."""
    scale = float(1 << network.weight_frac_bits)
    return {name: torch.round(w * scale) / scale if name.endswith(".weight") else w for name, w in weights.items()}
