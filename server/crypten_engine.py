"""The CrypTen engine: a network description evaluated with CrypTen's tensors. Run by both servers, in step.

Truncation is CrypTen's: each server divides its own share. That is off by one unit at most, except with probability
|x| / 2^64 per element, when the result is wrong by about 2^(64 - f); silent here, caught by the edge's range check
(docs/architecture.md#range).
"""

import types
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from protocols import ring
from protocols.dealing import PartyMaterial
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
from protocols.network import IMAGE_WIRE
from protocols.plan import Plan, WeightTriple
from protocols.ring import ConvGeometry
from protocols.shared_model import SharedModel
from server import crypten_runtime


def compute_ahead(plan: Plan, model: SharedModel, material: PartyMaterial) -> None:
    """Fold a * delta into c for every convolution: all that does not depend on the image."""
    for index, item in enumerate(plan.correlations):
        if isinstance(item, WeightTriple):
            delta = model.weights[item.weight].delta
            material.fold(index, ring.conv2d(material.a_share(index), delta, item.geometry))


class CrypTenEvaluation:
    """Evaluates one network on one shared image."""

    def __init__(self, crypten: types.ModuleType, model: SharedModel) -> None:
        self._crypten = crypten
        self._model = model
        self._weights = {name: crypten_runtime.weight_tensor(crypten, weight) for name, weight in model.weights.items()}

    def run(self, image: Tensor, sigma: Tensor) -> Tensor:
        """This server's share of the output.

        image: share (1, h, w) at FRAC_BITS. sigma: share (1,) at FRAC_BITS.
        """
        network = self._model.network
        height, width = image.shape[1:]
        padded = network.padded_size(height, width)
        wires = {IMAGE_WIRE: self._shared(extend_edges(image, *padded))}
        last_use = {source: layer.out for layer in network.layers for source in layer.sources}
        for layer in network.layers:
            wires[layer.out] = self._step(layer, [wires[source] for source in layer.sources], sigma)
            for source in layer.sources:
                if last_use[source] == layer.out:
                    wires.pop(source, None)  # a wire that is read no more is dropped: this bounds the memory
        out: Tensor = wires[network.layers[-1].out].share
        return out[:, :height, :width] if tuple(out.shape[1:]) == padded else out

    def _shared(self, share: Tensor) -> Any:
        return crypten_runtime.shared_tensor(self._crypten, share, FRAC_BITS)

    def _bilinear(self, x: Any, layer: Conv | Linear, geometry: ConvGeometry, bias: bool) -> Any:
        out = x.conv2d(self._weights[layer.weight_name], geometry=geometry)
        out = out.div_(1 << self._model.network.weight_frac_bits)
        if bias:
            out.share += self._model.biases[layer.bias_name].view(-1, 1, 1)
        return out

    def _relu(self, x: Any) -> Any:
        return crypten_runtime.relu(self._crypten, x)

    def _max_pool(self, x: Any, rows: int, columns: int) -> Any:
        """A knock-out: max(l, r) = r + relu(l - r), all pairs of a level side by side."""
        remaining = pool_windows(x.share, rows, columns)
        while len(remaining) > 1:
            pairs = len(remaining) // 2
            left, right = torch.cat(remaining[:pairs]), torch.cat(remaining[pairs : 2 * pairs])
            larger = self._relu(self._shared(left - right)).share + right
            remaining = list(larger.chunk(pairs)) + remaining[2 * pairs :]
        return self._shared(remaining[0])

    def _clamp(self, x: Any, low: float, high: float) -> Any:
        """X between its bounds is low + relu(x - low) - relu(x - high), both comparisons side by side."""
        excess = self._relu(self._shared(torch.cat([x.sub(low).share, x.sub(high).share])))
        above_low, above_high = excess.share.chunk(2)
        return self._shared(above_low - above_high).add(low)

    def _step(self, layer: Layer, inputs: list[Any], sigma: Tensor) -> Any:
        x = inputs[0]
        match layer:
            case Conv():
                return self._bilinear(x, layer, layer.geometry, layer.bias)
            case Linear():
                return self._bilinear(self._shared(x.share.reshape(-1, 1, 1)), layer, ConvGeometry(), True)
            case Gate():
                left, right = x.share.chunk(2, dim=0)
                return self._shared(left).mul(self._shared(right))
            case Product():
                return x.mul(inputs[1])
            case Add():
                return x.add(inputs[1])
            case Concat():
                return self._shared(torch.cat([wire.share for wire in inputs], dim=0))
            case Scale():
                return x.mul(round(layer.factor * (1 << FRAC_BITS))).div_(1 << FRAC_BITS)
            case SigmaMap():
                return self._shared(sigma.view(1, 1, 1).expand(1, *x.share.shape[1:]))
            case PixelUnshuffle():
                return self._shared(functional.pixel_unshuffle(x.share, layer.factor))
            case PixelShuffle():
                return self._shared(functional.pixel_shuffle(x.share, layer.factor))
            case AvgPool():
                rows, columns = layer.window([tuple(x.share.shape)])
                total = self._shared(torch.stack(pool_windows(x.share, rows, columns)).sum(0))
                return total.div_(rows * columns)
            case MaxPool():
                rows, columns = layer.window([tuple(x.share.shape)])
                return self._max_pool(x, rows, columns)
            case Relu():
                return self._relu(x)
            case Clamp():
                return self._clamp(x, layer.low, layer.high)
        raise AssertionError(f"no secure evaluation of {layer.op}")  # a layer type was added without this case
