"""Roles and the 128-bit random identifiers that sessions, objects, pushes and material carry."""

import enum
import re
import secrets
from dataclasses import dataclass
from typing import ClassVar, Self

from protocols.errors import RemoteProtocolError


class Role(enum.Enum):
    """One of the two servers. A leads, B follows."""

    A = "A"
    B = "B"

    @property
    def party(self) -> int:
        """The party index that the sharing uses: 0 for A, 1 for B."""
        return 0 if self is Role.A else 1

    @property
    def peer(self) -> "Role":
        return Role.B if self is Role.A else Role.A


@dataclass(frozen=True, order=True)
class Identifier:
    """128 random bits in 32 lower-case hex digits. Public; never derived from a secret."""

    value: str
    PATTERN: ClassVar = re.compile(r"[0-9a-f]{32}")

    def __post_init__(self) -> None:
        if not self.PATTERN.fullmatch(self.value):
            raise RemoteProtocolError(f"{type(self).__name__} must be 32 lower-case hex digits, not {self.value[:40]!r}")

    @classmethod
    def fresh(cls) -> Self:
        """A new identifier from the operating system's randomness."""
        return cls(secrets.token_hex(16))

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self.value)

    def __str__(self) -> str:
        return self.value


class ObjectId(Identifier):
    """A packed image at rest on the two servers."""


class SessionId(Identifier):
    """One evaluation, chosen by the edge."""


class MaterialId(Identifier):
    """One batch of correlated randomness, chosen by the dealer, used once."""


class PushId(Identifier):
    """One masking of one model's weights under one dealer."""


class BootId(Identifier):
    """One run of one server process; lives in RAM, so that a restart cannot continue old material."""
