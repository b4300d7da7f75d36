"""Before and after: grey tiles side by side in one PNG. Of made-up or public images only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image
from torch import Tensor

ENLARGED: Final = 2  # each pixel becomes a square of this side
GAP: Final = 8
WHITE: Final = 255


def grey(values: Float64[Tensor, "h w"], low: float, high: float) -> Float64[Tensor, "h w"]:
    """Values between `low` and `high` as [0, 1], clipped."""
    return ((values - low) / max(high - low, 1e-9)).clamp(0, 1)


def grey_words(words: Int64[Tensor, "h w"]) -> Float64[Tensor, "h w"]:
    """Ring elements as [0, 1] by their size in the whole ring: what looks like noise is noise."""
    return words.double() / 2.0**64 + 0.5


def write_tiles(path: Path, tiles: Sequence[Float64[Tensor, "h w"]]) -> Path:
    """All tiles in a row, of one height, on white."""
    height = max(tile.shape[0] for tile in tiles) * ENLARGED
    width = sum(tile.shape[1] * ENLARGED for tile in tiles) + GAP * (len(tiles) - 1)
    canvas = np.full((height, width), WHITE, dtype=np.uint8)
    left = 0
    for tile in tiles:
        levels = (tile.numpy() * WHITE).round().astype(np.uint8)
        enlarged = levels.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
        canvas[: enlarged.shape[0], left : left + enlarged.shape[1]] = enlarged
        left += enlarged.shape[1] + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas).save(path)
    return path
