"""Seeing inside a network: the values of chosen wires."""

from collections.abc import Collection
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from protocols.float_evaluation import float_wires
from protocols.network import Network


@dataclass(frozen=True)
class Probe:
    """The wires `names` of a network."""

    network: Network
    names: tuple[str, ...]

    def wires(
        self, weights: dict[str, Tensor], images: Float[Tensor, "n 1 h w"], sigma: Float[Tensor, " n"]
    ) -> dict[str, Tensor]:
        """The value of each wire; differentiable."""
        found = float_wires(self.network, weights, images, sigma)
        return {name: found[name] for name in self.names}


def probe_all(network: Network, ops: Collection[str] = ("conv", "gate", "product", "add")) -> Probe:
    """The wires that layers of these kinds write."""
    return Probe(network, tuple(layer.out for layer in network.layers if layer.op in ops))
