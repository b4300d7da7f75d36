"""A small network that has every layer, its weights, and how far truncation may take an evaluation from the oracle."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from protocols.fixed_point import FRAC_BITS, encode
from protocols.layers import (
    Add,
    AvgPool,
    Clamp,
    Concat,
    Conv,
    Gate,
    Layer,
    Linear,
    MaxPool,
    PixelShuffle,
    PixelUnshuffle,
    Product,
    Relu,
    Scale,
    SigmaMap,
)
from protocols.network import IMAGE_WIRE, Network

EVERY_LAYER = Network(
    (
        PixelUnshuffle("folded", IMAGE_WIRE, 2),
        SigmaMap("sigma", "folded"),
        Concat("entry", "folded", "sigma"),
        Conv("widen", "entry", 8, kernel=3, padding=1),
        Conv("filter", "widen", 8, kernel=3, padding=2, dilation=2, groups=8),
        Gate("gate", "filter"),
        AvgPool("mean", "gate", 0),
        Linear("attention", "mean", 4),
        Product("attended", "gate", "attention"),
        Conv("half", "attended", 6, kernel=3, stride=2, padding=1, groups=2, bias=False),
        Relu("rectified", "half"),
        MaxPool("largest", "attended", 2),
        AvgPool("average", "attended", 2),
        Concat("both", "rectified", "largest"),
        Conv("mix", "both", 4, kernel=1),
        Clamp("limited", "mix", -0.25, 0.5),
        Add("sum", "limited", "average"),
        Product("square", "sum", "sum"),
        Scale("scaled", "square", -0.375),
        Conv("expand", "scaled", 16, kernel=1),
        PixelShuffle("residual", "expand", 4),
        Add("output", IMAGE_WIRE, "residual"),
    ),
    multiple=4,
    weight_frac_bits=12,
)


def weights_of(network: Network, seed: int = 1) -> dict[str, Tensor]:
    """Seeded weights on the network's grid: no wire leaves [-4, 4] for an image in [-1, 2]."""
    generator = torch.Generator().manual_seed(seed)
    grid = float(1 << network.weight_frac_bits)
    weights = {}
    for name, shape in network.parameter_shapes().items():
        fan_in = torch.Size(shape[1:]).numel() if name.endswith(".weight") else 16
        values = torch.randn(shape, generator=generator) * (0.7 * fan_in**-0.5)
        weights[name] = torch.round(values * grid) / grid
    return weights


def encoded_weights(network: Network, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights on the grids that servers and oracle use."""
    return {
        name: encode(tensor, frac_bits=network.weight_frac_bits if name.endswith(".weight") else FRAC_BITS)
        for name, tensor in weights.items()
    }


def image_of(height: int, width: int, seed: int = 2) -> Tensor:
    """A seeded image (1, height, width) in [-1, 2], as doubles on the grid of 2^-16."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(1, height, width, generator=generator, dtype=torch.double) * 3 - 1
    return torch.round(pixels * 65536) / 65536


def truncation_bound(network: Network, weights: Mapping[str, Tensor], wires: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each element of each wire, how many units of 2^-16 an evaluation may differ from the oracle's `wires`.

    First-order intervals made rigorous: every truncation adds at most one unit to the oracle's floor, a linear layer passes
    errors on through its absolute weights, a product of x and y gives |x| e_y + |y| e_x + e_x e_y, and neither maximum, ReLU
    nor clamp enlarges an error.
    """
    bound = {IMAGE_WIRE: torch.zeros_like(wires[IMAGE_WIRE], dtype=torch.double)}
    for layer in network.layers:
        errors = [bound[source] for source in layer.sources]
        values = [wires[source].abs().double() / 65536 for source in layer.sources]
        bound[layer.out] = _passed_on(layer, errors, values, weights)
    return bound


def _passed_on(layer: Layer, errors: list[Tensor], values: list[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    error, value = errors[0], values[0]
    match layer:
        case Conv():
            absolute = weights[layer.weight_name].abs().double()
            geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
            return functional.conv2d(error[None], absolute, None, *geometry)[0] + 1
        case Linear():
            return (weights[layer.weight_name].abs().double() @ error.flatten())[:, None, None] + 1
        case Gate():
            (e, f), (x, y) = error.chunk(2), value.chunk(2)
            return x * f + y * e + e * f / 65536 + 1
        case Product():
            return value * errors[1] + values[1] * error + error * errors[1] / 65536 + 1
        case Add():
            return error + errors[1]
        case Concat():
            return torch.cat(errors)
        case Scale():
            return abs(layer.factor) * error + 1
        case SigmaMap():
            return torch.zeros(1, *error.shape[1:], dtype=torch.double)
        case PixelUnshuffle():
            return functional.pixel_unshuffle(error, layer.factor)
        case PixelShuffle():
            return functional.pixel_shuffle(error, layer.factor)
        case AvgPool():
            return functional.avg_pool2d(error, layer.kernel or tuple(error.shape[1:])) + 1
        case MaxPool():
            return functional.max_pool2d(error, layer.kernel or tuple(error.shape[1:]))
        case Relu() | Clamp():
            return error
    raise AssertionError(f"no bound for {layer.op}")  # a layer type was added without this case
