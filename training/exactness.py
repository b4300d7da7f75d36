"""What fixed point costs: the masked engine's oracle with the random carries that servers have, against floating point.

Every wire has the format that the model's ranges give it, as on the servers. `bench.exactness` shows the same on live servers;
this takes none, and is part of a model card. (The oracle's floor would not do: its errors all point one way.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from protocols.fixed_point import FRAC_BITS, decode, encode
from protocols.float_evaluation import evaluate_float
from protocols.masked_oracle import Truncate, masked_oracle
from protocols.masked_plan import WireItem, masked_plan
from protocols.network import Network
from training.images import Series, spread_slices
from training.quality import psnr_db

LARGEST: Final = 1 / 4095  # of the range: one step of a 12-bit image (issue 5)
LARGEST_PSNR_DB: Final = 0.01


@dataclass(frozen=True)
class Exactness:
    """The worst cases over all slices and levels: of a pixel, in units of the range, and of PSNR; and where they are."""

    cases: int
    difference: float
    difference_at: str
    psnr_difference_db: float
    psnr_difference_at: str

    @property
    def good(self) -> bool:
        """Whether both lie within what is allowed."""
        return self.difference <= LARGEST and self.psnr_difference_db <= LARGEST_PSNR_DB


def random_carries(generator: torch.Generator) -> Truncate:
    """Truncation as servers have it: a carry with the probability that the part which is cut off says."""

    def truncate(item: WireItem, product: Tensor) -> Tensor:
        return (product + torch.randint(1 << item.shift, product.shape, generator=generator)) >> item.shift

    return truncate


def both_results(
    network: Network, weights: Mapping[str, Tensor], image: Float64[Tensor, "h w"], sigma: float, truncate: Truncate
) -> tuple[Float64[Tensor, "h w"], Float64[Tensor, "h w"]]:
    """Oracle, then floating point, from one image and level on the fixed-point grid. weights: float64. sigma: of the range.

    Raises NetworkDescriptionError: the masked engine does not evaluate this network.
    """
    words, level = encode(image[None]), encode(torch.tensor([sigma], dtype=torch.float64))
    encoded = {
        name: encode(weight, frac_bits=network.weight_frac_bits if name.endswith(".weight") else FRAC_BITS)
        for name, weight in weights.items()
    }
    plan = masked_plan(network, *image.shape)
    with torch.inference_mode():
        oracle = decode(masked_oracle(plan, encoded, words, level.view(1, 1, 1), truncate))
        expected = evaluate_float(network, weights, decode(words)[None], decode(level))
    return oracle[0], expected[0, 0]


def measure_exactness(
    network: Network, weights: Mapping[str, Tensor], series: Sequence[Series], sigmas: Sequence[float], *, slices: int, seed: int
) -> Exactness:
    """Noisy slices of every series at every level, in 1/255 of the range."""
    exact = {name: weight.double() for name, weight in weights.items()}
    rng = np.random.default_rng((seed, 3))
    carries = random_carries(torch.Generator().manual_seed(seed))
    found: list[tuple[float, float, str]] = []
    for one in series:
        for number, plane in enumerate(spread_slices(one, slices)):
            clean = one.normalised(plane)
            for sigma in sigmas:
                noisy = torch.from_numpy(clean + sigma / 255 * rng.standard_normal(clean.shape))
                oracle, expected = both_results(network, exact, noisy, sigma / 255, carries)
                psnr = [psnr_db(result.numpy(), clean) for result in (oracle, expected)]
                place = f"{one.name}, slice {number}, sigma {sigma:g}"
                found.append((float((oracle - expected).abs().max()), abs(psnr[0] - psnr[1]), place))
    difference = max(found, key=lambda case: case[0])
    psnr_difference = max(found, key=lambda case: case[1])
    return Exactness(len(found), difference[0], difference[2], psnr_difference[1], psnr_difference[2])
