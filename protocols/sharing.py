"""Two-party additive sharing over Z_{2^64}; one share is a seed.

Assumes authenticated, encrypted channels and servers that do not collude; semi-honest.
A single share is uniform (B's) or a fresh key (A's) and independent of the secret, for as long as AES-256 is a PRF.
"""

from dataclasses import dataclass, field
from typing import Final

from jaxtyping import Int64
from torch import Tensor

from protocols.errors import RemoteProtocolError
from protocols.prg import Prg, fresh_key
from protocols.unpicklable import Unpicklable

SHARE_LABEL: Final = 0
SHARE_KIND: Final = 0


@dataclass(frozen=True, eq=False)
class SharePair(Unpicklable):
    """The two shares of one tensor: a seed for server A, words for server B. Shape is public."""

    seed: bytes = field(repr=False)
    words: Int64[Tensor, "..."] = field(repr=False)


def share(secret: Int64[Tensor, "..."], *, seed: bytes | None = None) -> SharePair:
    """Split a tensor over Z_{2^64}. Run by whoever owns the secret.

    seed: 32 bytes, fresh from the operating system unless a test injects one; never used for a second tensor.
    """
    seed = fresh_key() if seed is None else seed
    return SharePair(seed, secret - expand_seed(seed, tuple(secret.shape)))


def expand_seed(seed: bytes, shape: tuple[int, ...]) -> Int64[Tensor, "..."]:
    """Server A's share of a tensor of this shape. Run by server A."""
    return Prg(seed).words(SHARE_LABEL, SHARE_KIND, shape)


def reconstruct(share_a: Int64[Tensor, "*shape"], share_b: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Put two shares together. Run by the edge, never by a server."""
    if share_a.shape != share_b.shape:
        raise RemoteProtocolError(f"the shares have different shapes, {tuple(share_a.shape)} and {tuple(share_b.shape)}")
    return share_a + share_b
