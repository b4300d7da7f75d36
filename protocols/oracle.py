"""The fixed-point oracle: the network on plaintext words of Z_{2^64}, with floor truncation. The tests' reference.

What a secure engine computes is this, up to the carry of each truncation: it rounds up as often as the part that is cut off says
(DESIGN section 6), which the floor never does. The floor's errors all point one way and add up; see `Truncate`.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional

from protocols import ring
from protocols.fixed_point import FRAC_BITS
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
from protocols.linear_steps import extend_edges, pool_windows
from protocols.network import IMAGE_WIRE, Network
from protocols.ring import ConvGeometry

Truncate = Callable[[Tensor, int], Tensor]  # words, and the number of fractional bits to take from them


def floor(words: Tensor, bits: int) -> Tensor:
    """Truncation without a carry: the same on every run."""
    return words >> bits


def evaluate_oracle(
    network: Network, weights: Mapping[str, Tensor], image: Int64[Tensor, "1 h w"], sigma: int, *, truncate: Truncate = floor
) -> Int64[Tensor, "c h_out w_out"]:
    """Run the network on encoded words.

    weights: encoded; `.weight` tensors at network.weight_frac_bits, biases at FRAC_BITS. sigma: encoded at FRAC_BITS.
    """
    height, width = image.shape[1:]
    out = oracle_wires(network, weights, image, sigma, truncate=truncate)[network.layers[-1].out]
    return out[:, :height, :width] if tuple(out.shape[1:]) == network.padded_size(height, width) else out


def oracle_wires(
    network: Network, weights: Mapping[str, Tensor], image: Int64[Tensor, "1 h w"], sigma: int, *, truncate: Truncate = floor
) -> dict[str, Int64[Tensor, "c_wire h_wire w_wire"]]:
    """Every wire, by name, for a network on encoded words; arguments as for `evaluate_oracle`."""
    wires = {IMAGE_WIRE: extend_edges(image, *network.padded_size(*image.shape[1:]))}
    for layer in network.layers:
        wires[layer.out] = _step(layer, [wires[source] for source in layer.sources], weights, sigma, network, truncate)
    return wires


def _step(
    layer: Layer, inputs: list[Tensor], weights: Mapping[str, Tensor], sigma: int, network: Network, truncate: Truncate
) -> Tensor:
    x = inputs[0]
    match layer:
        case Conv():
            product = truncate(ring.conv2d(x, weights[layer.weight_name], layer.geometry), network.weight_frac_bits)
            return product + weights[layer.bias_name].view(-1, 1, 1) if layer.bias else product
        case Linear():
            kernel = weights[layer.weight_name][:, :, None, None]
            product = truncate(ring.conv2d(x.reshape(-1, 1, 1), kernel, ConvGeometry()), network.weight_frac_bits)
            return product + weights[layer.bias_name].view(-1, 1, 1)
        case Gate():
            left, right = x.chunk(2, dim=0)
            return truncate(left * right, FRAC_BITS)
        case Product():
            return truncate(x * inputs[1], FRAC_BITS)
        case Add():
            return x + inputs[1]
        case Concat():
            return torch.cat(inputs, dim=0)
        case Scale():
            return truncate(x * round(layer.factor * (1 << FRAC_BITS)), FRAC_BITS)
        case SigmaMap():
            return torch.full((1, *x.shape[1:]), sigma, dtype=torch.int64)
        case PixelUnshuffle():
            return functional.pixel_unshuffle(x, layer.factor)
        case PixelShuffle():
            return functional.pixel_shuffle(x, layer.factor)
        case AvgPool():
            rows, columns = layer.window([tuple(x.shape)])  # type: ignore[list-item]
            return torch.stack(pool_windows(x, rows, columns)).sum(0) // (rows * columns)
        case MaxPool():
            rows, columns = layer.window([tuple(x.shape)])  # type: ignore[list-item]
            return torch.stack(pool_windows(x, rows, columns)).amax(0)
        case Relu():
            return x.clamp(min=0)
        case Clamp():
            return x.clamp(round(layer.low * (1 << FRAC_BITS)), round(layer.high * (1 << FRAC_BITS)))
    raise AssertionError(f"no fixed-point evaluation of {layer.op}")  # a layer type was added without this case
