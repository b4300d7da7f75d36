"""Correlated randomness broken on purpose, for the twins of a check. Never run outside `security`.

*Dropped*: a = b = 0 for every correlation, and on the masked engine every stream of a mask zero, at dealer and workers alike:
the evaluation stays right and what is opened is the secret itself. *Reused*: the dealer derives the seeds of every session from
one constant, so all sessions have one set of masks.
"""

import torch
from torch import Tensor

from protocols import dealing, masked_dealing
from protocols.identifiers import MaterialId, Role
from protocols.plan import AndTriple, Correlation, ProductTriple
from protocols.prg import Keystream, Prg, WordReader, derive_key
from security.stage import Fault


def apply_fault(fault: Fault) -> None:
    """Break this process's dealing as the fault says; most faults do not concern it. Run by a twin's dealer and workers."""
    if fault is Fault.DROPPED:
        dealing._expand = _unmasked
        masked_dealing.__dict__["Prg"] = _NoPrg
    elif fault is Fault.REUSED:
        dealing.session_seed = _constant_seed


def _unmasked(prg: Prg, index: int, item: Correlation) -> tuple[Tensor, Tensor | None]:
    a = torch.zeros(item.a_shape, dtype=torch.int64)
    if isinstance(item, ProductTriple):
        return a, torch.zeros(item.b_shape, dtype=torch.int64)
    return a, torch.zeros_like(a) if isinstance(item, AndTriple) else None


class _NoPrg(Prg):
    """Zeros: with e = 0 and the inputs' masks zero, every r that the dealer solves for is zero."""

    def reader(self, label: int, kind: int) -> WordReader:
        return _Zeros(Keystream(self.key, label, kind))


class _Zeros(WordReader):
    """No stream."""

    def fill(self, out: Tensor) -> Tensor:
        return out.zero_()


def _constant_seed(master: bytes, role: Role, material: MaterialId, context: bytes) -> bytes:
    return derive_key(bytes(32), b"reused", role.value.encode())
