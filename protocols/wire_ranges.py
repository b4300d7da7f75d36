"""The fixed-point format of every truncated wire, from what it holds on hostile images and what rounding does to a result.

The rule, for any network:

* Magnitude: 2^l is at least MARGIN times the largest value found, over patterns in [-1, 2] without and with noise
  (protocols.hostile_images), noisy phantoms, and what the caller has found besides: training gives its slices. **Measured, not
  proven**, and images that go further are known: training climbs by gradient ascent too, and writes to the model file what that
  finds (bound_ascent), which for the shipped `base` overflows. Ranges leave it out deliberately. Such an image hurts only the one
  who sends it: the result is wrong, truncation may fail silently (protocols.truncation), the edge refuses what leaves [-2, 3],
  and nobody learns anything.
* Fractional bits: a wire that a convolution reads has f. One that a gate or product reads has g, at least (f + weight bits) / 2,
  which makes its product as long as a convolution's, and up to EXTRA more, where its rounding is what is seen. One that no
  product reads has FRAC_BITS, as a result must: no later truncation gets longer by it.
* f, of F_RANGE, and g are those with the fewest flags with which noisy phantoms come out within SHARE of `tolerance` of floating
  point, as other images have other noise; the finest f where none do. Each bit less halves the flags, and narrows comparisons.
* What is left of the tolerance is spent on flags, while more than FLAGS of them are expected: bits are taken from the wires that
  gates and products read, one at a time, first where most flags go with it, and given back where the result gets too coarse.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from numpy.random import Generator  # noqa: TID251 - an argument
from torch import Tensor

from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import FRAC_BITS, decode, encode
from protocols.float_evaluation import evaluate_float, float_wires
from protocols.hostile_images import Batch, hostile_batches, phantom_batches
from protocols.layers import TRUNCATED, Gate, Layer, Product
from protocols.masked_oracle import Truncate, masked_oracle
from protocols.masked_plan import MaskedPlan, WireItem, masked_plan
from protocols.network import MAGNITUDE_RANGE, Network, WireRange
from protocols.prg import KEY_BYTES, Prg

TOLERANCE: Final = 1 / 4095  # of the range: a grey level of a 12-bit image
MARGIN: Final = 2.0
SHARE: Final = 0.55  # on 128x128, in five runs, the worst pixel was off by 1.4 times what these phantoms show
F_RANGE: Final = (10, 18)
EXTRA: Final = 2
WEIGHT_BITS_RANGE: Final = (10, 16)
FLAGS: Final = 0.005  # expected in an evaluation at FLAGS_SIDE x FLAGS_SIDE: half of one in a hundred
FLAGS_SIDE: Final = 512
SIDE: Final = 48  # more than the receptive field of 20 convolutions of 3x3
PHANTOMS: Final = 2  # of each noise level


@dataclass(frozen=True)
class RangedNetwork:
    """A description with ranges filled in. error: largest difference from floating point on the phantoms, in the end."""

    network: Network
    frac_bits: int  # f
    error: float
    largest: Mapping[str, float]  # value found on each wire

    def expected_flags(self, height: int, width: int) -> float:
        """In one evaluation at this size."""
        return masked_plan(self.network, height, width).expected_flags


def measured_ranges(
    network: Network,
    weights: Mapping[str, Tensor],
    rng: Generator,
    *,
    tolerance: float = TOLERANCE,
    known: Mapping[str, float] | None = None,
) -> RangedNetwork:
    """Fill in the ranges of a network for its weights by the rule above. known: magnitudes found elsewhere, by wire.

    Run by whoever makes a model. Raises NetworkDescriptionError: a wire grows beyond what the ring can hold.
    """
    phantoms = list(phantom_batches(SIDE, PHANTOMS, rng))
    largest = largest_values(network, weights, (*hostile_batches(SIDE, rng), *phantoms))
    for wire, value in (known or {}).items():
        largest[wire] = max(largest.get(wire, 0.0), value)
    for found in _by_flags(network, largest):
        error = rounding_error(found.network, weights, phantoms)
        if error <= tolerance * SHARE:
            return _thinned(replace(found, error=error), weights, phantoms, tolerance * SHARE)
    finest = replace(network, ranges=_ranges(network, largest, F_RANGE[1], _factor_bits(network, F_RANGE[1])))
    return RangedNetwork(finest, F_RANGE[1], rounding_error(finest, weights, phantoms), largest)


def weight_grid(
    network: Network, weights: Mapping[str, Tensor], rng: Generator, *, tolerance: float = TOLERANCE
) -> tuple[int, float]:
    """The coarsest grid of weights on which noisy phantoms stay within SHARE of `tolerance`, and the largest difference there."""
    phantoms = list(phantom_batches(SIDE, PHANTOMS, rng))
    for frac_bits in range(WEIGHT_BITS_RANGE[0], WEIGHT_BITS_RANGE[1] + 1):
        rounded = _on_grid(replace(network, weight_frac_bits=frac_bits), weights)
        error = max(_float_difference(network, weights, rounded, batch) for batch in phantoms)
        if error <= tolerance * SHARE or frac_bits == WEIGHT_BITS_RANGE[1]:
            return frac_bits, error
    raise AssertionError("WEIGHT_BITS_RANGE is empty")


def largest_values(network: Network, weights: Mapping[str, Tensor], batches: Iterable[Batch]) -> dict[str, float]:
    """The largest magnitude of every wire over the images; infinite where one overflows."""
    found: dict[str, float] = {}
    with torch.inference_mode():
        for images, sigma in batches:
            for name, value in float_wires(network, weights, images, torch.full((images.shape[0],), sigma / 255)).items():
                top = float(value.abs().max())
                found[name] = max(found.get(name, 0.0), top if math.isfinite(top) else math.inf)
    return found


def rounding_error(network: Network, weights: Mapping[str, Tensor], batches: list[Batch]) -> float:
    """The largest difference between the masked engine and float64, in units of the range.

    Each truncation carries as the engine's does, from a stream under a fixed key: it rounds without bias.
    """
    words = {name: encode(weight, frac_bits=_grid(network, name)) for name, weight in weights.items()}
    exact = _on_grid(network, weights)
    stream, plan = Prg(bytes(KEY_BYTES)), masked_plan(network, *batches[0][0].shape[2:])

    def carried(item: WireItem, product: Tensor) -> Tensor:
        mask = stream.words(item.number, 0, tuple(product.shape)) & ((1 << item.shift) - 1)
        return (product + mask) >> item.shift

    return max(_difference(plan, words, exact, batch, carried) for batch in batches)


def _by_flags(network: Network, largest: Mapping[str, float]) -> list[RangedNetwork]:
    """The network with each f and g, those with the fewest expected flags first; their error is yet to be found."""
    found = []
    extra = EXTRA if _read_by(network, (Gate, Product)) else 0  # without products, g is nobody's
    for frac_bits in range(F_RANGE[0], F_RANGE[1] + 1):
        least = _factor_bits(network, frac_bits)
        for factor_bits in range(least, min(least + extra, FRAC_BITS) + 1):
            ranges = _ranges(network, largest, frac_bits, factor_bits)
            found.append(RangedNetwork(replace(network, ranges=ranges), frac_bits, math.inf, largest))
    return sorted(found, key=lambda each: (each.expected_flags(FLAGS_SIDE, FLAGS_SIDE), each.frac_bits))


def _factor_bits(network: Network, frac_bits: int) -> int:
    """With as many in both factors, a product is as long as a convolution's."""
    return min((frac_bits + network.weight_frac_bits) // 2, FRAC_BITS)


def _thinned(found: RangedNetwork, weights: Mapping[str, Tensor], phantoms: list[Batch], allowed: float) -> RangedNetwork:
    """With fewer bits on the factors of products, until FLAGS are left or no factor can spare one within the allowed error."""
    spare = {name for name, _ in found.network.ranges} & _read_by(found.network, (Gate, Product))
    while spare and found.expected_flags(FLAGS_SIDE, FLAGS_SIDE) > FLAGS:
        shorter = {name: replace(found, network=_one_bit_less(found.network, name)) for name in spare}
        name = min(sorted(spare), key=lambda each: shorter[each].expected_flags(FLAGS_SIDE, FLAGS_SIDE))
        error = rounding_error(shorter[name].network, weights, phantoms)
        if error <= allowed:
            found = replace(shorter[name], error=error)
        else:
            spare.remove(name)
    return found


def _one_bit_less(network: Network, wire: str) -> Network:
    """The description with one fractional bit less on one wire."""
    ranges = dict(network.ranges)
    ranges[wire] = replace(ranges[wire], frac_bits=ranges[wire].frac_bits - 1)
    return replace(network, ranges=tuple(sorted(ranges.items())))


def _difference(
    plan: MaskedPlan, words: Mapping[str, Tensor], exact: Mapping[str, Tensor], batch: Batch, carried: Truncate
) -> float:
    """Of the engine's result from the float one, on the images of a batch."""
    images, level = encode(batch[0]), encode(torch.tensor([batch[1] / 255], dtype=torch.float64))
    with torch.inference_mode():
        expected = evaluate_float(plan.network, exact, decode(images), decode(level).expand(images.shape[0]))
        results = [masked_oracle(plan, words, image, level.view(1, 1, 1), carried) for image in images]
    return float((decode(torch.stack(results)) - expected).abs().max())


def _float_difference(network: Network, first: Mapping[str, Tensor], second: Mapping[str, Tensor], batch: Batch) -> float:
    """Between two sets of weights, in double precision, on the images of a batch."""
    images, sigma = batch[0].double(), torch.full((batch[0].shape[0],), batch[1] / 255, dtype=torch.float64)
    with torch.inference_mode():
        a, b = (
            evaluate_float(network, {n: w.double() for n, w in weights.items()}, images, sigma) for weights in (first, second)
        )
    return float((a - b).abs().max())


def _on_grid(network: Network, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters as the servers hold them, as doubles."""
    return {
        name: decode(encode(w, frac_bits=_grid(network, name)), frac_bits=_grid(network, name)) for name, w in weights.items()
    }


def _grid(network: Network, name: str) -> int:
    """Fractional bits of a parameter."""
    return network.weight_frac_bits if name.endswith(".weight") else FRAC_BITS


def _ranges(
    network: Network, largest: Mapping[str, float], frac_bits: int, factor_bits: int
) -> tuple[tuple[str, WireRange], ...]:
    """The rule of this module for one f and g."""
    multiplied, convolved = _read_by(network, (Gate, Product)), _read_by(network, TRUNCATED)

    def bits(wire: str) -> int:
        if wire in multiplied:
            return factor_bits
        return frac_bits if wire in convolved else FRAC_BITS

    names = sorted(layer.out for layer in network.layers if isinstance(layer, TRUNCATED))
    return tuple((name, WireRange(bits(name), _magnitude_bits(name, largest[name]))) for name in names)


def _read_by(network: Network, kinds: tuple[type[Layer], ...]) -> set[str]:
    """The wires that a layer of these kinds reads, at once or through layers that neither multiply nor truncate."""
    found: set[str] = set()
    for layer in reversed(network.layers):
        if isinstance(layer, kinds) or (layer.out in found and not isinstance(layer, TRUNCATED)):
            found.update(layer.sources)
    return found


def _magnitude_bits(wire: str, largest: float) -> int:
    """L with MARGIN * largest <= 2^l. Raises NetworkDescriptionError where no range is wide enough."""
    low, high = MAGNITUDE_RANGE
    if largest * MARGIN > 2.0**high:
        raise NetworkDescriptionError(
            f"{wire} reaches {largest:.3g} on an image within [-1, 2], beyond all that the ring can hold with a margin: "
            "train the network so that its wires stay small on hostile images (training/README.md)"
        )
    return max(low, math.ceil(math.log2(largest * MARGIN))) if largest else low
