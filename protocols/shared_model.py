"""One server's view of a pushed model: weights opened under the masks of their push, and shares of the biases."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Int64
from torch import Tensor

from protocols.network import Network
from protocols.unpicklable import Unpicklable


@dataclass(frozen=True, eq=False)
class MaskedWeight(Unpicklable):
    """One weight tensor w under its push: delta = w - b, known to both servers, and this server's share of b."""

    delta: Int64[Tensor, "..."] = field(repr=False)
    mask_share: Int64[Tensor, "..."] = field(repr=False)


@dataclass(frozen=True, eq=False)
class SharedModel(Unpicklable):
    """Masked weights at the network's weight_frac_bits, and shares of the biases at FRAC_BITS."""

    network: Network
    weights: Mapping[str, MaskedWeight] = field(repr=False)
    biases: Mapping[str, Int64[Tensor, "..."]] = field(repr=False)
