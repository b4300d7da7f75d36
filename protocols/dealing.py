"""Correlated randomness: how the dealer makes it and how each server expands its half.

Run by the dealer (`corrections`) and by both servers (`PartyMaterial`). A's half is a 32-byte seed. B's half is a seed and
one correction per correlation, which the dealer solves for: c_B = f(a_A + a_B, b_A + b_B) - c_A (XOR for AND triples).
Assumes the dealer colludes with neither server and does not see their traffic; semi-honest.

Source: Beaver, Efficient multiparty protocols using circuit randomization, CRYPTO 1991; seeds instead of shares as in
Boyle et al., Efficient pseudorandom correlation generators, CRYPTO 2019, section 1 (the trivial, dealer-aided form).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

from jaxtyping import Int64
from torch import Tensor

from protocols import ring
from protocols.errors import LocalProtocolError, MaterialReusedError
from protocols.identifiers import MaterialId, PushId, Role
from protocols.plan import AndTriple, Correlation, Plan, ProductTriple, SharedBit, WeightTriple
from protocols.prg import Prg, derive_key
from protocols.unpicklable import Unpicklable

Taken = TypeVar("Taken", WeightTriple, ProductTriple, AndTriple, SharedBit)


class Stream(IntEnum):
    """The kinds of tensor of one correlation: with the plan index it addresses a stream, so no two overlap."""

    A = 0
    B = 1
    C = 2


def session_seed(master: bytes, role: Role, material: MaterialId, context: bytes) -> bytes:
    """One server's seed for one batch of session material. Run by the dealer."""
    return derive_key(master, b"session", role.value.encode(), material.raw, context)


def push_seed(master: bytes, role: Role, push: PushId, network_digest: bytes) -> bytes:
    """One server's seed for the weight masks of one push. Run by the dealer."""
    return derive_key(master, b"push", role.value.encode(), push.raw, network_digest)


def weight_mask_share(seed: bytes, position: int, shape: tuple[int, ...]) -> Int64[Tensor, "..."]:
    """One server's share of the mask b of weight tensor number `position`. Run by dealer and servers."""
    return Prg(seed).words(position, Stream.B, shape)


@dataclass(frozen=True, eq=False)
class Tuple3(Unpicklable):
    """One server's shares (a, b, c); b is absent where it is a weight mask."""

    a: Tensor = field(repr=False)
    b: Tensor | None = field(repr=False)
    c: Tensor = field(repr=False)


def _expand(prg: Prg, index: int, item: Correlation) -> tuple[Tensor, Tensor | None]:
    """This party's shares of a and b, which are pure PRG output."""
    a = prg.words(index, Stream.A, item.a_shape)
    match item:
        case WeightTriple():
            return a, None
        case ProductTriple():
            return a, prg.words(index, Stream.B, item.b_shape)
        case AndTriple():
            return a, prg.words(index, Stream.B, item.a_shape)
        case SharedBit():
            return a & 1, None


def _result(item: Correlation, a: Tensor, b: Tensor | None) -> Tensor:
    """What c must share: f(a, b) in the ring (AND and the bit itself: 64 parallel bits, one bit)."""
    if isinstance(item, SharedBit):
        return a
    if b is None:
        raise LocalProtocolError(f"{item.wire}: a triple without b")
    match item:
        case WeightTriple():
            return ring.conv2d(a, b, item.geometry)
        case ProductTriple():
            return a * b
        case AndTriple():
            return a & b


def corrections(plan: Plan, seed_a: bytes, seed_b: bytes, masks: dict[str, Tensor]) -> Iterator[tuple[int, Int64[Tensor, "..."]]]:
    """B's correction for each correlation, in plan order. Run by the dealer.

    masks: the weight masks b = b_A + b_B of the push, by weight name.
    """
    prg_a, prg_b = Prg(seed_a), Prg(seed_b)
    for index, item in enumerate(plan.correlations):
        own_a, own_b = _expand(prg_a, index, item)
        peer_a, peer_b = _expand(prg_b, index, item)
        c_a = prg_a.words(index, Stream.C, item.c_shape)
        if isinstance(item, AndTriple | SharedBit):
            a = own_a ^ peer_a
            b = own_b ^ peer_b if own_b is not None and peer_b is not None else None
        else:
            a = own_a.add_(peer_a)
            b = own_b + peer_b if own_b is not None and peer_b is not None else None
        if isinstance(item, WeightTriple):
            b = masks[item.weight]
        result = _result(item, a, b)
        yield index, (result ^ c_a if isinstance(item, AndTriple) else result.sub_(c_a))


class PartyMaterial(Unpicklable):
    """One server's half of one batch of session material: every correlation is taken once, in plan order."""

    def __init__(self, role: Role, plan: Plan, seed: bytes) -> None:
        self._role = role
        self._plan = plan
        self._prg = Prg(seed)
        self._next = 0
        self._c: dict[int, Tensor] = {}  # B: corrections; either: c with what was computed ahead folded in

    def __repr__(self) -> str:
        return f"PartyMaterial(role={self._role.value}, next={self._next}/{len(self._plan.correlations)})"

    def correct(self, index: int, words: Int64[Tensor, "..."]) -> None:
        """Take in the dealer's correction, B's share of c. Run by server B before the evaluation."""
        if self._role is not Role.B or index in self._c or index < self._next:
            raise MaterialReusedError(f"correction {index} is not expected by server {self._role.value}")
        self._c[index] = words

    def a_share(self, index: int) -> Int64[Tensor, "..."]:
        """This server's share of a, for what is computed before the image arrives."""
        if index < self._next:
            raise MaterialReusedError(f"correlation {index} has been used")
        return _expand(self._prg, index, self._plan.correlations[index])[0]

    def fold(self, index: int, addend: Int64[Tensor, "..."]) -> None:
        """Add what was computed ahead (a * delta) to this server's share of c."""
        if index < self._next:
            raise MaterialReusedError(f"correlation {index} has been used")
        self._c[index] = self._c_share(index).add_(addend)

    def _c_share(self, index: int) -> Tensor:
        if index in self._c:
            return self._c.pop(index)
        if self._role is Role.B:
            raise LocalProtocolError(f"the dealer's correction {index} has not arrived")
        return self._prg.words(index, Stream.C, self._plan.correlations[index].c_shape)

    def take(self, expected: type[Taken]) -> tuple[int, Taken, Tuple3]:
        """Consume the next correlation. Raises MaterialReusedError past the end, LocalProtocolError on another kind."""
        index = self._next
        if index >= len(self._plan.correlations):
            raise MaterialReusedError("the material is used up: an evaluation asked for more than its plan")
        item = self._plan.correlations[index]
        if not isinstance(item, expected):
            raise LocalProtocolError(f"the evaluation asked for {expected.__name__}, the plan has {item} at {index}")
        self._next += 1
        a, b = _expand(self._prg, index, item)
        return index, item, Tuple3(a, b, self._c_share(index))
