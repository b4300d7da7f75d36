"""Seeing inside a network: descriptions that put out every wire at once.

A probe is the network with its wires concatenated at the end, so that `evaluate_float` shows them all in one pass; the
wires of one plane size share a probe.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from protocols.float_evaluation import evaluate_float
from protocols.network import Concat, Layer, Network

SIDE: Final = 64  # of the image that plane sizes and channels are read off; only their ratios matter


@dataclass(frozen=True)
class Probe:
    """A network whose output is the wires `names`, `channels` of each, in this order."""

    network: Network
    names: tuple[str, ...]
    channels: tuple[int, ...]

    def wires(
        self, weights: dict[str, Tensor], images: Float[Tensor, "n 1 h w"], sigma: Float[Tensor, " n"]
    ) -> dict[str, Tensor]:
        """The value of each wire; differentiable."""
        out = evaluate_float(self.network, weights, images, sigma)
        return dict(zip(self.names, torch.split(out, list(self.channels), dim=1), strict=True))


def probes(network: Network, ops: Collection[str] = ("conv", "gate", "add")) -> list[Probe]:
    """One probe for each plane size among the wires that layers of these kinds write."""
    shapes = network.wire_shapes(SIDE, SIDE)
    planes: dict[tuple[int, int], list[str]] = {}
    for layer in network.layers:
        if layer.op in ops:
            planes.setdefault(shapes[layer.out][1:], []).append(layer.out)
    return [probe_of(network, names) for names in planes.values()]


def probe_of(network: Network, names: Sequence[str]) -> Probe:
    """The probe of these wires, which share one plane size."""
    shapes = network.wire_shapes(SIDE, SIDE)
    written = [layer.out for layer in network.layers]
    layers = list(network.layers[: 1 + max(written.index(name) for name in names)])
    joined = list(names)
    while len(joined) > 1:  # a balanced tree: a chain would copy the first wire once for every other
        pairs = list(zip(joined[::2], joined[1::2], strict=False))
        made: list[Layer] = [Concat(f"probe.{len(layers) + n}", left, right) for n, (left, right) in enumerate(pairs)]
        layers += made
        joined = [layer.out for layer in made] + joined[2 * len(pairs) :]
    if layers[-1].out != joined[0]:
        layers = layers[: 1 + [layer.out for layer in layers].index(joined[0])]
    return Probe(
        Network(tuple(layers), network.multiple, network.weight_frac_bits), tuple(names), tuple(shapes[name][0] for name in names)
    )
