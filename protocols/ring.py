"""Arithmetic in Z_{2^64}, held as two's complement int64.

torch's int64 addition, multiplication and matrix product wrap modulo 2^64, which is the ring we need.
Convolution is unfold (im2col) and one matrix product, about twice as fast as torch's own int64 convolution; kernels of three rows
take two thirds of the multiplications (protocols.three_rows).
"""

import sys
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional

from protocols.errors import RemoteProtocolError
from protocols.three_rows import KERNEL_ROWS, ThreeRows, worth_it

WORD_BYTES = 8
# im2col blocks of at most this many words stay near the second-level cache and bound the memory of a convolution
UNFOLD_BLOCK_WORDS: Final = 1 << 17
OUTPUT_BLOCK_WORDS: Final = 1 << 17  # so that no padded copy of a whole input is made


@dataclass(frozen=True)
class ConvGeometry:
    """Stride, zero padding, dilation and groups of a two-dimensional convolution."""

    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    def output_size(self, size: int, kernel: int) -> int:
        """Length of one spatial axis after the convolution."""
        return (size + 2 * self.padding - self.dilation * (kernel - 1) - 1) // self.stride + 1


def conv2d(
    x: Int64[Tensor, "c_in h w"], weight: Int64[Tensor, "c_out c_group kh kw"], geometry: ConvGeometry
) -> Int64[Tensor, "c_out h_out w_out"]:
    """Convolve in Z_{2^64}; the same cross-correlation as torch.nn.functional.conv2d."""
    convolution = Convolution(x, weight, geometry)
    out = torch.empty(convolution.shape, dtype=torch.int64)
    channels, height, width = convolution.shape
    rows = block_rows(OUTPUT_BLOCK_WORDS, channels * width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        out[:, top:bottom] = convolution.rows(top, bottom)
    return out


def block_rows(words: int, row_words: int) -> int:
    """Rows of a block of at most `words` words, where one row has fewer: by threes, if it can be (`protocols.three_rows`)."""
    rows = max(1, words // row_words)
    return rows - rows % KERNEL_ROWS or rows


class Convolution:
    """One convolution in Z_{2^64} whose output rows are computed when they are asked for."""

    def __init__(
        self, x: Int64[Tensor, "c_in h w"], weight: Int64[Tensor, "c_out c_group kh kw"], geometry: ConvGeometry
    ) -> None:
        self._weight = weight
        self._geometry = geometry
        self._x = x
        plain = (geometry.stride, geometry.dilation, geometry.groups) == (1, 1, 1)
        self._three_rows = ThreeRows(weight) if plain and worth_it(weight) else None
        height, width = (geometry.output_size(size, kernel) for size, kernel in zip(x.shape[1:], weight.shape[2:], strict=True))
        self.shape = (weight.shape[0], height, width)

    def rows(self, top: int, bottom: int) -> Int64[Tensor, "c_out rows w_out"]:
        """Output rows top..bottom-1."""
        c_out, c_group, kh, kw = self._weight.shape
        width = self.shape[2]
        x = self._source_rows(top, bottom)
        if (kh, kw, self._geometry.stride) == (1, 1, 1) and self._geometry.groups == 1:
            out = _pointwise(x.reshape(x.shape[0], -1), self._weight.reshape(c_out, c_group))
            return out.view(c_out, bottom - top, width)
        if c_group == 1 and self._geometry.groups == x.shape[0] == c_out:
            return _depthwise(x, self._weight, self._geometry, bottom - top, width)
        if self._three_rows is None:
            return _unfolded(x, self._weight, self._geometry, bottom - top, width)
        out = torch.empty(c_out, bottom - top, width, dtype=torch.int64)
        split = (bottom - top) // KERNEL_ROWS * KERNEL_ROWS
        self._three_rows.convolve(x[:, : split + kh - 1], out[:, :split])
        if split < bottom - top:
            out[:, split:] = _unfolded(x[:, split:], self._weight, self._geometry, bottom - top - split, width)
        return out

    def _source_rows(self, top: int, bottom: int) -> Tensor:
        """What output rows top..bottom-1 are computed from, padded."""
        step, padding = self._geometry.stride, self._geometry.padding
        first = top * step - padding
        end = (bottom - 1) * step + self._geometry.dilation * (self._weight.shape[2] - 1) + 1 - padding
        rows = self._x[:, max(first, 0) : max(end, 0)]
        if not padding:
            return rows
        above = min(max(-first, 0), end - first)
        return functional.pad(rows, [padding, padding, above, end - first - above - rows.shape[1]])


def _unfolded(padded: Tensor, weight: Tensor, geometry: ConvGeometry, h_out: int, w_out: int) -> Tensor:
    """im2col and a matrix product, by blocks of rows."""
    c_out, c_group, kh, kw = weight.shape
    out = torch.empty(c_out, h_out, w_out, dtype=torch.int64)
    out_group = c_out // geometry.groups
    rows = max(1, UNFOLD_BLOCK_WORDS // (c_group * kh * kw * w_out))
    for group in range(geometry.groups):
        patches = _patches(padded[group * c_group : (group + 1) * c_group], kh, kw, geometry, h_out, w_out)
        matrix = weight[group * out_group : (group + 1) * out_group].reshape(out_group, -1)
        target = out[group * out_group : (group + 1) * out_group]
        for top in range(0, h_out, rows):
            block = patches[:, :, :, top : top + rows]
            columns = block.reshape(c_group * kh * kw, -1)
            target[:, top : top + rows] = (matrix @ columns).view(out_group, -1, w_out)
    return out


def _patches(padded: Tensor, kh: int, kw: int, geometry: ConvGeometry, h_out: int, w_out: int) -> Tensor:
    """A strided view [c, kh, kw, h_out, w_out] of the padded input: no copy."""
    plane, row, column = padded.stride()
    step = geometry.stride
    return padded.as_strided(
        (padded.shape[0], kh, kw, h_out, w_out),
        (plane, geometry.dilation * row, geometry.dilation * column, step * row, step * column),
        padded.storage_offset(),
    )


def _pointwise(x: Tensor, matrix: Tensor) -> Tensor:
    """Matrix @ x by blocks of columns: three to four times faster than at once, where x is wide and flat."""
    out = torch.empty(matrix.shape[0], x.shape[1], dtype=torch.int64)
    columns = max(1, UNFOLD_BLOCK_WORDS // max(x.shape[0], 1))
    for start in range(0, x.shape[1], columns):
        out[:, start : start + columns] = matrix @ x[:, start : start + columns]
    return out


def _depthwise(padded: Tensor, weight: Tensor, geometry: ConvGeometry, h_out: int, w_out: int) -> Tensor:
    """One kernel per channel: kh*kw multiply-adds of whole planes, one plane at a time so that it stays in cache."""
    c_out, _, kh, kw = weight.shape
    patches = _patches(padded, kh, kw, geometry, h_out, w_out)
    out = torch.empty(c_out, h_out, w_out, dtype=torch.int64)
    for channel, taps in enumerate(weight.view(c_out, kh * kw).tolist()):
        plane = out[channel]
        torch.mul(patches[channel, 0, 0], taps[0], out=plane)
        for index in range(1, kh * kw):
            dy, dx = divmod(index, kw)
            plane.add_(patches[channel, dy, dx], alpha=taps[index])  # vectorised, unlike addcmul_ on int64
    return out


def to_bytes(words: Int64[Tensor, "..."]) -> bytes:
    """Row-major little-endian words, 8 bytes each."""
    array = words.contiguous().numpy()
    return array.tobytes() if sys.byteorder == "little" else array.byteswap().tobytes()


def from_bytes(buffer: bytes | bytearray | memoryview, shape: tuple[int, ...]) -> Int64[Tensor, "..."]:
    """The inverse of `to_bytes`. Raises RemoteProtocolError when the length does not fit the shape."""
    count = int(np.prod(shape, dtype=np.int64))
    if len(buffer) != count * WORD_BYTES:
        raise RemoteProtocolError(f"expected {count} ring words ({count * WORD_BYTES} bytes), got {len(buffer)} bytes")
    words = np.frombuffer(buffer, dtype="<i8").astype(np.int64, copy=True)
    return torch.from_numpy(words).view(shape)
