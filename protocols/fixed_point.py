"""Fixed-point encoding of reals in Z_{2^64}: x is round(x * 2^f), two's complement."""

from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from protocols.errors import EncodingRangeError

FRAC_BITS: Final = 16  # a 12-bit grey level is 16 steps; two factors leave 31 bits of headroom: docs/architecture.md#range
ENCODING_LIMIT: Final = float(1 << 20)  # no weight or pixel of a normalised image comes near; catches units mistakes
IMAGE_LOW: Final = -1.0  # a normalised image is in [0, 1]; noise may leave it, nothing sensible leaves [-1, 2],
IMAGE_HIGH: Final = 2.0  # and the wires' bounds are measured over exactly this interval (DESIGN section 6, Bounds)


def encode(values: Float[Tensor, "*shape"], *, frac_bits: int = FRAC_BITS) -> Int64[Tensor, "*shape"]:
    """Round to the grid of 2^-frac_bits, ties to even.

    Raises EncodingRangeError: NaN, infinite, or beyond +-2^20.
    """
    values = values.double()
    if not bool(torch.isfinite(values).all()):
        raise EncodingRangeError("the values contain NaN or infinity; clean them before encoding")
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest > ENCODING_LIMIT:
        raise EncodingRangeError(f"the value {largest:g} exceeds the encoding limit {ENCODING_LIMIT:g}; normalise first")
    return torch.round(values * float(1 << frac_bits)).to(torch.int64)


def decode(words: Int64[Tensor, "*shape"], *, frac_bits: int = FRAC_BITS) -> Float[Tensor, "*shape"]:
    """The reals that the words stand for, as float64."""
    return words.double() / float(1 << frac_bits)


def encode_image(pixels: Float[Tensor, "h w"]) -> Int64[Tensor, "h w"]:
    """Encode a normalised image. Run by the client.

    Raises EncodingRangeError: NaN, infinite, or a pixel outside [-1, 2].
    """
    words = encode(pixels)
    low, high = float(pixels.min()), float(pixels.max())
    if low < IMAGE_LOW or high > IMAGE_HIGH:
        raise EncodingRangeError(
            f"pixels span [{low:g}, {high:g}], outside [{IMAGE_LOW:g}, {IMAGE_HIGH:g}]: map the stored range to [0, 1] first"
        )
    return words
