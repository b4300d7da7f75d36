"""Plaintext evaluation of a network in floating point: the reference for quality, and what training differentiates."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

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


def evaluate_float(
    network: Network,
    weights: Mapping[str, Tensor],
    images: Float[Tensor, "n 1 h w"],
    sigma: Float[Tensor, " n"],
) -> Float[Tensor, "n c h_out w_out"]:
    """Run the network on a batch; differentiable in weights and images.

    images: normalised to [0, 1]. sigma: noise level in the same unit (25/255, say). weights: see Network.parameter_shapes.
    """
    height, width = images.shape[2:]
    out = float_wires(network, weights, images, sigma)[network.layers[-1].out]
    return out[:, :, :height, :width] if tuple(out.shape[2:]) == network.padded_size(height, width) else out


def float_wires(
    network: Network,
    weights: Mapping[str, Tensor],
    images: Float[Tensor, "n 1 h w"],
    sigma: Float[Tensor, " n"],
    read: Callable[[str, Tensor], Tensor] = lambda _, value: value,
) -> dict[str, Float[Tensor, "n c_wire h_wire w_wire"]]:
    """Every wire, by name, before the output is cropped; arguments as for `evaluate_float`.

    read: what later layers read of a wire, from its name and value: the value itself, unless training limits it.
    """
    height, width = images.shape[2:]
    padded_h, padded_w = network.padded_size(height, width)
    wires = {IMAGE_WIRE: functional.pad(images, (0, padded_w - width, 0, padded_h - height), mode="replicate")}
    seen = dict(wires)
    for layer in network.layers:
        wires[layer.out] = _step(layer, [seen[source] for source in layer.sources], weights, sigma)
        seen[layer.out] = read(layer.out, wires[layer.out])
    return wires


def _step(layer: Layer, inputs: list[Tensor], weights: Mapping[str, Tensor], sigma: Tensor) -> Tensor:
    x = inputs[0]
    match layer:
        case Conv():
            bias = weights[layer.bias_name] if layer.bias else None
            geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
            return functional.conv2d(x, weights[layer.weight_name], bias, *geometry)
        case Linear():
            return functional.linear(x.flatten(1), weights[layer.weight_name], weights[layer.bias_name])[..., None, None]
        case Gate():
            left, right = x.chunk(2, dim=1)
            return left * right
        case Product():
            return x * inputs[1]
        case Add():
            return x + inputs[1]
        case Concat():
            return torch.cat(inputs, dim=1)
        case Scale():
            return x * layer.factor
        case SigmaMap():
            return sigma.to(x).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        case PixelUnshuffle():
            return functional.pixel_unshuffle(x, layer.factor)
        case PixelShuffle():
            return functional.pixel_shuffle(x, layer.factor)
        case AvgPool():
            return functional.avg_pool2d(x, layer.kernel or tuple(x.shape[2:]))
        case MaxPool():
            return functional.max_pool2d(x, layer.kernel or tuple(x.shape[2:]))
        case Relu():
            return functional.relu(x)
        case Clamp():
            return x.clamp(layer.low, layer.high)
    raise AssertionError(f"no float evaluation of {layer.op}")  # a layer type was added without this case
