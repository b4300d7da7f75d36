"""The sign of a masked wire from its mask's bits: the comparison behind ReLU and max-pool (DESIGN section 6, ReLU).

x = D - l with D public and |x| < 2^(k-1): in k bits the sign of x is D[k-1] ^ l[k-1] ^ borrow, where borrow = [d < t] for the
lower k-1 bits d of D and t of l. Bits are shared by XOR, and everything is done on packed planes (protocols.bit_planes).

1. In blocks of four bits, less(d, t) and equal(d, t) are polynomials over GF(2) in the bits of t with coefficients that d makes
   public. The dealer shares all products of the bits of each block of t; the servers evaluate locally (`block_bits`).
2. They open each of these bits under a fresh mask bit. With `less_j = L_j ^ a_j` and `equal_i = E_i ^ b_i`,

       borrow = XOR_j less_j AND_{i>j} equal_i

   is a polynomial in the mask bits with public coefficients; the dealer shares the products of mask bits (`mask_pairs`) and the
   servers evaluate locally again (`borrow`): a multi-input AND in one round.

What is opened is uniform: each opened bit has its own mask bit, of which each server holds one XOR share.
Source: ABY2.0 (Patra et al., USENIX Security 2021), section 4 for multi-input AND gates with dealt products of masks.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

BLOCK_BITS: Final = 4
ONES: Final = -1

Planes = Int64[Tensor, "_ packed"]


def _subsets(members: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All subsets, the empty one first."""
    return [chosen for size in range(len(members) + 1) for chosen in combinations(members, size)]


@dataclass(frozen=True)
class SignBits:
    """The circuit for wires of k bits. Public."""

    bits: int

    @cached_property
    def blocks(self) -> list[tuple[int, ...]]:
        """Bit positions of each block, from the lowest, without the sign's."""
        low = range(self.bits - 1)
        return [tuple(low[start : start + BLOCK_BITS]) for start in range(0, self.bits - 1, BLOCK_BITS)]

    @cached_property
    def bit_products(self) -> list[tuple[int, ...]]:
        """Which bits of l are multiplied in each dealt plane; the last is its sign bit alone."""
        return [chosen for block in self.blocks for chosen in _subsets(block) if chosen] + [(self.bits - 1,)]

    @property
    def masked_bits(self) -> int:
        """Opened planes of step 2: less_0.., then equal_1.."""
        return 2 * len(self.blocks) - 1

    @cached_property
    def mask_pairs(self) -> list[tuple[int, ...]]:
        """Which mask bits are multiplied in each dealt plane: two or more of them."""
        count = len(self.blocks)
        equal = {block: count + block - 1 for block in range(1, count)}
        out = [chosen for chosen in _subsets(tuple(equal.values())) if len(chosen) > 1]
        for block in range(count):
            above = tuple(equal[other] for other in range(block + 1, count))
            out += [(block, *chosen) for chosen in _subsets(above) if chosen]
        return out

    def products(self, planes: Planes, wanted: list[tuple[int, ...]]) -> Planes:
        """AND of the chosen planes, for each entry of `bit_products` or `mask_pairs`. Run by the dealer."""
        known: dict[tuple[int, ...], Tensor] = {}
        for chosen in wanted:
            before = known.get(chosen[:-1]) if len(chosen) > 1 else None
            if before is None:
                before = planes[chosen[0]]
                for place in chosen[1:-1]:
                    before = before & planes[place]
            known[chosen] = before & planes[chosen[-1]]
        return torch.stack([known[chosen] for chosen in wanted])

    def block_bits(self, public: Planes, shares: Planes, leads: bool) -> Planes:
        """This server's XOR shares of less_0.. and equal_1.. Step 1.

        public: planes of D. shares: of `bit_products`. leads: A adds what is public.
        """
        place = {chosen: index for index, chosen in enumerate(self.bit_products)}
        inverted = ~public
        less, equal = [], []
        for number, block in enumerate(self.blocks):
            smaller, same = torch.zeros_like(public[0]), torch.zeros_like(public[0])
            for chosen in _subsets(block):
                others = [bit for bit in block if bit not in chosen]
                share = shares[place[chosen]] if chosen else torch.full_like(same, ONES if leads else 0)
                if number:
                    same ^= _all([share, *(inverted[bit] for bit in others)])
                if chosen:
                    higher = [bit for bit in others if bit > chosen[0]]
                    smaller ^= _all([share, inverted[chosen[0]], *(inverted[bit] for bit in higher)])
            less.append(smaller)
            if number:
                equal.append(same)
        return torch.stack(less + equal)

    def borrow(self, opened: Planes, masks: Planes, products: Planes, leads: bool) -> Int64[Tensor, " packed"]:
        """This server's XOR share of the borrow. Step 2.

        opened: the masked bits. masks: this server's shares of their masks. products: of `mask_pairs`.
        """
        place = {chosen: index for index, chosen in enumerate(self.mask_pairs)}
        count = len(self.blocks)

        def product(chosen: tuple[int, ...]) -> Tensor:
            if not chosen:
                return torch.full_like(opened[0], ONES if leads else 0)
            return masks[chosen[0]] if len(chosen) == 1 else products[place[chosen]]

        out = torch.zeros_like(opened[0])
        for block in range(count):
            above = tuple(count + other - 1 for other in range(block + 1, count))
            for chosen in _subsets(above):
                term = (opened[block] & product(chosen)) ^ product((block, *chosen))
                out ^= _all([term, *(opened[other] for other in above if other not in chosen)])
        return out


def _all(planes: list[Tensor]) -> Tensor:
    """The AND of several planes."""
    out = planes[0]
    for plane in planes[1:]:
        out = out & plane
    return out
