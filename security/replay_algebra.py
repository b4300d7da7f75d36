"""What a second opening under one mask would give away: the algebra of the broken twins of `security.replay`.

In a session a server opens `x - a` under a mask `a` dealt for it (`protocols.dealing`), and a model's weights are opened once
per push as `delta = w - b`. None of the functions here needs more than one server's view of two openings that the real
servers never make both. Source: Beaver, CRYPTO 1991 (a triple is for one product); the two-time pad.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

from protocols.ring import ConvGeometry


def from_difference(
    opened: Int64[Tensor, "*shape"], again: Int64[Tensor, "*shape"], known: Int64[Tensor, "*shape"]
) -> Int64[Tensor, "*shape"]:
    """The unknown input: `(x - a) - (x' - a) = x - x'`, and x' is known. The same holds for weights, `(w - b) - (w' - b)`."""
    return opened - again + known


@dataclass(frozen=True)
class Impulses:
    """Additions to one opening, one per input channel, each alone in its neighbourhood: every reply is one kernel tap.

    A convolution of stride 1 that keeps the size, ungrouped; the plane must have room for the channels' neighbourhoods.
    """

    channels: int
    height: int
    width: int
    kernel: int

    @property
    def places(self) -> list[tuple[int, int]]:
        """Row and column of each channel's impulse."""
        reach = self.kernel
        columns = self.width // reach
        places = [(reach * (n // columns) + reach // 2, reach * (n % columns) + reach // 2) for n in range(self.channels)]
        if places[-1][0] + reach // 2 >= self.height:
            raise ValueError(f"{self.channels} kernels of side {reach} have no room in {self.height}x{self.width}")
        return places

    def words(self, height: int) -> Int64[Tensor, "c h w"]:
        """The addition itself."""
        words = torch.zeros(self.channels, self.height, self.width, dtype=torch.int64)
        for channel, (row, column) in enumerate(self.places):
            words[channel, row, column] = height
        return words

    def taps(self, reply: Int64[Tensor, "c_out h w"]) -> Int64[Tensor, "c_out c_in k k"]:
        """Out of the convolution of the impulses with a kernel: the kernel, times the impulses' height."""
        half = self.kernel // 2
        taps = [
            # a cross-correlation mirrors the impulse
            reply[:, row - half : row + half + 1, column - half : column + half + 1].flip(1, 2)
            for row, column in self.places
        ]
        return torch.stack(taps, dim=1)


EXTRA_BITS: Final = (
    6  # the impulse is this much larger than the divisor, so that the rounding of two divisions cannot reach the weight
)


def weights_from_replay(
    summand: Int64[Tensor, "c_out h w"],
    again: Int64[Tensor, "c_out h w"],
    own_mask: Int64[Tensor, "c_out c_in k k"],
    impulses: Impulses,
    *,
    weight_frac_bits: int,
) -> Int64[Tensor, "c_out c_in k k"]:
    """All weights of one convolution, for server B, from A's next opening in two runs that B made differ.

    B adds `d = 2^(f + EXTRA_BITS)` to its summand of the convolution's opening in the second run. A then holds `d * k` more than
    before, with its half `k = w - b_B` of the kernel, divides by 2^f, and opens the next wire: `summand` and `again`, under
    the same mask, which cancels. own_mask: b_B. What is left of A's 64-bit half after the division is known modulo
    2^(64 - f - EXTRA_BITS), which is plenty for a weight.
    """
    modulus = 1 << (64 - weight_frac_bits)
    reply = impulses.taps(again - summand) % modulus
    sent = (own_mask << EXTRA_BITS) % modulus
    scaled = (reply + sent) % modulus
    centred = torch.where(scaled >= modulus // 2, scaled - modulus, scaled)
    return (centred + (1 << (EXTRA_BITS - 1))) >> EXTRA_BITS


def weights_from_masked_replay(
    summand: Int64[Tensor, "c_out h w"],
    again: Int64[Tensor, "c_out h w"],
    own_mask: Int64[Tensor, "c_out c_in k k"],
    impulses: Impulses,
) -> Int64[Tensor, "c_out c_in k k"]:
    """The same on the masked engine, where it is simpler: A's next summand is D*k + (what did not change), untruncated.

    B added 2^f, so that A's public part D of the wire is one larger after truncation where the impulses are.
    """
    return impulses.taps(again - summand) + own_mask


def impulse_height(weight_frac_bits: int) -> int:
    """What B adds for `weights_from_replay`."""
    return 1 << (weight_frac_bits + EXTRA_BITS)


def same_size_convolution(geometry: ConvGeometry, kernel: int) -> bool:
    """Whether `Impulses` fit this layer."""
    return geometry == ConvGeometry(padding=kernel // 2)
