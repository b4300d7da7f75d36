"""The layers that only move or add words: the same code on plaintext words, on masks, on their shares and on public parts.

All are linear over Z_{2^64} with public coefficients, so they are local on every representation of a wire. Some add a public
constant: that changes the public part, or the plaintext, and leaves the mask what it was.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from protocols.layers import Add, AvgPool, Concat, Layer, PixelShuffle, PixelUnshuffle, SigmaMap
from protocols.lowering import Channels, Clamped, Offset, Subtract, Windows, WireFormat, constant_words

LINEAR: Final = (Add, Concat, PixelShuffle, PixelUnshuffle, SigmaMap, Windows, Channels, Offset)


def extend_edges(image: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column up to the given size, [c, h, w] -> [c, height, width]; linear, so it works on shares."""
    rows = torch.arange(height).clamp(max=image.shape[1] - 1)
    columns = torch.arange(width).clamp(max=image.shape[2] - 1)
    return image[:, rows][:, :, columns]


def linear_step(
    layer: Layer, inputs: Sequence[Tensor], sigma: Tensor | None, formats: Mapping[str, WireFormat], *, constants: bool
) -> Tensor:
    """One layer of LINEAR on words [c, h, w]. Never writes to its inputs.

    sigma: the noise level in the same representation, one word; None where the network reads none. formats: of every wire; a
    source with fewer fractional bits is shifted up. constants: whether public constants are added: on plaintext words and public
    parts, not on masks and their shares.
    """
    x = inputs[0]
    match layer:
        case Offset():
            (aligned,) = _aligned(layer, inputs, formats)
            return aligned + constant_words(layer.value, formats[layer.out].frac_bits) if constants else aligned
        case Clamped():
            left, right = _aligned(layer, inputs, formats)
            between = left - right
            return between.add_(constant_words(layer.low, formats[layer.out].frac_bits)) if constants else between
        case Subtract():
            left, right = _aligned(layer, inputs, formats)
            return left - right
        case Add():
            left, right = _aligned(layer, inputs, formats)
            return left + right
        case Concat():
            return torch.cat(_aligned(layer, inputs, formats), dim=0)
        case SigmaMap() if sigma is not None:
            return sigma.view(1, 1, 1).expand(1, *x.shape[1:])
        case PixelUnshuffle():
            return functional.pixel_unshuffle(x, layer.factor)
        case PixelShuffle():
            return functional.pixel_shuffle(x, layer.factor)
        case Channels():
            return x[layer.first : layer.last]
        case Windows():
            return torch.cat(pool_windows(x, *layer.window([tuple(x.shape)])))  # type: ignore[list-item]
    raise AssertionError(f"{layer.op} is not linear with public coefficients")


def _aligned(layer: Layer, inputs: Sequence[Tensor], formats: Mapping[str, WireFormat]) -> list[Tensor]:
    finest = formats[layer.out].frac_bits
    steps = [finest - formats[source].frac_bits for source in layer.sources]
    return [x << step if step else x for x, step in zip(inputs, steps, strict=True)]


def pool_windows(x: Tensor, rows: int, columns: int) -> list[Tensor]:
    """The members of each pooling window, one tensor per position in the window."""
    height, width = x.shape[1] // rows * rows, x.shape[2] // columns * columns
    return [x[:, top:height:rows, left:width:columns] for top in range(rows) for left in range(columns)]


def pool_sum(x: Tensor, layer: AvgPool) -> Tensor:
    """The sum over each window."""
    rows, columns = layer.window([tuple(x.shape)])  # type: ignore[list-item]
    height, width = x.shape[1] // rows, x.shape[2] // columns
    whole = x[:, : height * rows, : width * columns]
    return whole.reshape(x.shape[0], height, rows, width, columns).sum(dim=(2, 4))
