"""A convolution whose kernel has three rows, by three output rows at a time: six products of rows in place of nine.

With kernel rows w0, w1, w2 and input rows x0 .. x4, all with * along the row, the output rows are

    w0*x0 + w1*x1 + w2*x2  =  w0*(x0 - x1 - x2) + (w0 + w1)*x1 + (w0 + w2)*x2
    w0*x1 + w1*x2 + w2*x3  =  w1*(x2 - x1 - x3) + (w0 + w1)*x1 + (w1 + w2)*x3
    w0*x2 + w1*x3 + w2*x4  =  w2*(x4 - x2 - x3) + (w0 + w2)*x2 + (w1 + w2)*x3

Sums and differences alone, no division: exact in Z_{2^64}, which the transforms of Winograd are not.
Source: Fan and Hasan, A new approach to subquadratic space complexity parallel multipliers for extended binary fields, IEEE
Transactions on Computers 2007 (Toeplitz matrix times vector, split in three: the transpose of Karatsuba's product).
"""

from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

KERNEL_ROWS: Final = 3
FEWEST_CHANNELS: Final = 16  # below, the sums cost more than the products that they save


def worth_it(weight: Int64[Tensor, "c_out c_in kh kw"]) -> bool:
    """Whether a convolution, of stride and dilation 1 in one group, is faster this way."""
    c_out, c_in, kh, _ = weight.shape
    return kh == KERNEL_ROWS and min(c_out, c_in) >= FEWEST_CHANNELS


class ThreeRows:
    """The kernel, prepared for it."""

    def __init__(self, weight: Int64[Tensor, "c_out c_in 3 kw"]) -> None:
        first, second, third = weight.unbind(2)
        rows = [first, second, third, first + second, first + third, second + third]
        self._kernels = [[tap.contiguous() for tap in row.unbind(2)] for row in rows]
        self._c_out = weight.shape[0]

    def convolve(self, x: Int64[Tensor, "c_in rows_in w_in"], out: Int64[Tensor, "c_out rows w_out"]) -> None:
        """Into `out`, whose rows are a multiple of three. x: padded, two rows more."""
        products = torch.empty(len(self._kernels), self._c_out, out.shape[2], dtype=torch.int64)
        for top in range(0, out.shape[1], KERNEL_ROWS):
            self._multiply(x[:, top : top + 5], products)
            p0, p1, p2, p01, p02, p12 = products
            torch.add(p0.add_(p01), p02, out=out[:, top])
            torch.add(p1.add_(p01), p12, out=out[:, top + 1])
            torch.add(p2.add_(p02), p12, out=out[:, top + 2])

    def _multiply(self, x: Int64[Tensor, "c_in 5 w_in"], products: Int64[Tensor, "6 c_out w_out"]) -> None:
        x0, x1, x2, x3, x4 = x.unbind(1)
        rows = [(x0 - x1).sub_(x2), (x2 - x1).sub_(x3), (x4 - x2).sub_(x3), x1, x2, x3]
        width = products.shape[2]
        for taps, row, product in zip(self._kernels, rows, products, strict=True):
            torch.mm(taps[0], row[:, :width], out=product)
            for column, tap in enumerate(taps[1:], start=1):
                product.addmm_(tap, row[:, column : column + width])
