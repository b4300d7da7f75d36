"""Large images by overlapping tiles: each is evaluated by itself, with its own material, and only its inner part is kept.

A pixel of the result depends on the image within the network's reach. A tile's window extends beyond its inner part by that much,
so what the cut does to the window's borders stays outside. The result is the untiled one up to the carries of truncation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isqrt
from typing import Final

from protocols.errors import NetworkDescriptionError
from protocols.layers import Conv, Linear, PixelShuffle, PixelUnshuffle, Pool
from protocols.network import IMAGE_WIRE, MIN_SIDE, Network

# Opened words of an image that is not cut: 96 Mi, three quarters of a GiB sent, so that 512x512 with the shipped model is one.
# Smaller tiles need more arithmetic and rounds: with its reach of 35 pixels, windows of 4 Mi words cover 2048x2048 3.5 times, in
# 676 tiles; those of half of this cover it 1.3 times, in 25.
TILE_WORDS: Final = 96 << 20
LEAST_INNER: Final = 32  # pixels; a network that leaves less of a window has no use for tiles


@dataclass(frozen=True)
class Tile:
    """A window of the image, and the part of it whose result is kept. In pixels; all public."""

    top: int  # of the window
    left: int
    height: int
    width: int
    inner_top: int  # of the kept part, in the image
    inner_left: int
    inner_height: int
    inner_width: int

    @property
    def kept(self) -> tuple[slice, slice]:
        """The kept part within the window."""
        row, column = self.inner_top - self.top, self.inner_left - self.left
        return slice(row, row + self.inner_height), slice(column, column + self.inner_width)

    @property
    def place(self) -> tuple[slice, slice]:
        """The kept part within the image."""
        rows = slice(self.inner_top, self.inner_top + self.inner_height)
        return rows, slice(self.inner_left, self.inner_left + self.inner_width)


def reach(network: Network) -> int | None:
    """How many pixels away an input pixel can still change an output pixel; None where all of them can."""
    step = {IMAGE_WIRE: Fraction(1)}  # image pixels per pixel of the wire
    far = {IMAGE_WIRE: Fraction(0)}
    for layer in network.layers:
        source = layer.sources[0]
        size, distance = step[source], max(far[name] for name in layer.sources)
        match layer:
            case Conv():
                distance += size * layer.dilation * (layer.kernel - 1)
                if layer.padding * 2 == layer.dilation * (layer.kernel - 1) and layer.stride == 1:
                    distance -= size * layer.padding  # centred: half on either side
                size *= layer.stride
            case PixelUnshuffle():
                distance += size * (layer.factor - 1)
                size *= layer.factor
            case PixelShuffle():
                size /= layer.factor
            case Pool():
                if not layer.kernel:
                    return None
                distance += size * (layer.kernel - 1)
                size *= layer.kernel
            case Linear():
                return None
        step[layer.out], far[layer.out] = size, distance
    return ceil(far[network.layers[-1].out]) if step[network.layers[-1].out] == 1 else None


def tiles_for(network: Network, height: int, width: int, words: Callable[[int, int], int], limit: int = TILE_WORDS) -> list[Tile]:
    """One tile where the image fits, else a grid of equal ones of half the limit: while one is evaluated, the next gets ready.

    words: opened words for a window of some height and width. Raises NetworkDescriptionError: too large, and the network's result
    cannot be put together from tiles.
    """
    if words(height, width) <= limit:
        return [Tile(0, 0, height, width, 0, 0, height, width)]
    distance, multiple = reach(network), network.multiple
    if distance is None:
        raise NetworkDescriptionError(
            f"a {height}x{width} image needs {words(height, width) >> 17} MiB of openings with this model, at most {limit >> 17} "
            "are supported, and its result depends on the whole image, so it cannot be cut into tiles; reduce the image"
        )
    halo = -(-max(distance, MIN_SIDE) // multiple) * multiple  # of a window that is hardly more than it, the halo is enough
    limit //= 2
    side = isqrt(limit * 256 * 256 // words(256, 256)) // multiple * multiple
    while True:
        inner = side - 2 * halo
        if inner < LEAST_INNER:
            raise NetworkDescriptionError(f"a window of {side} pixels leaves nothing: the network reaches {distance} pixels far")
        grid = [
            Tile(*_merged(rows, columns))
            for rows in _spans(height, inner, halo, multiple)
            for columns in _spans(width, inner, halo, multiple)
        ]
        if max(words(*size) for size in {(tile.height, tile.width) for tile in grid}) <= limit:
            return grid
        side -= multiple


def _spans(size: int, inner: int, halo: int, multiple: int) -> list[tuple[int, int, int, int]]:
    """Start and length of each window along one axis, and of the part that is kept."""
    count = -(-size // inner)
    length = -(-size // (count * multiple)) * multiple
    out = []
    for start in range(0, size, length):
        kept = min(length, size - start)
        low, high = max(0, start - halo), min(size, start + length + halo)
        out.append((low, high - low, start, kept))
    return out


def _merged(rows: tuple[int, int, int, int], columns: tuple[int, int, int, int]) -> tuple[int, int, int, int, int, int, int, int]:
    top, height, inner_top, inner_height = rows
    left, width, inner_left, inner_width = columns
    return top, left, height, width, inner_top, inner_left, inner_height, inner_width
