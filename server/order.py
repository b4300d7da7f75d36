"""The handshake of A and B, before anything masked is sent: A orders, B compares every field with its own. Pure.

Both sides then know: same session, object, model upload, push, plan, and the same run of each server. The shared key mixes
32 bytes of each, so neither dealer nor edge knows it.
"""

import hashlib
from dataclasses import dataclass, fields
from typing import Final

from proto import darkroom_pb2 as pb
from protocols.errors import RemoteProtocolError
from protocols.prg import KEY_BYTES, derive_key


@dataclass(frozen=True)
class OrderTerms:
    """What both servers must agree on, each from its own knowledge. Strings and digests, all public."""

    kind: int
    session_id: str
    model: str
    upload_id: str
    object_id: str
    plan_digest: bytes
    boot_a: str
    boot_b: str
    tile: int = 0  # of an image that is cut into tiles


TERMS: Final = tuple(field.name for field in fields(OrderTerms))
# What a user can do about a term that differs; the others are a fault of a server, or of the edge's program.
REMEDIES: Final = {"upload_id": ". They hold different uploads of this model: push it again with `darkroom model push`"}


def make_order(terms: OrderTerms, *, push_id: str, material_id: str, contribution: bytes) -> pb.PeerOrder:
    """A's order. Run by server A."""
    values = {name: getattr(terms, name) for name in TERMS}
    return pb.PeerOrder(push_id=push_id, material_id=material_id, contribution=contribution, **values)


def check_order(order: pb.PeerOrder, expected: OrderTerms) -> None:
    """Run by server B. Raises RemoteProtocolError naming the first term that differs."""
    for name in TERMS:
        if getattr(order, name) != getattr(expected, name):
            raise RemoteProtocolError(
                f"servers A and B disagree on {name}: A says {getattr(order, name)!r}{REMEDIES.get(name, '')}"
            )
    if len(order.contribution) != KEY_BYTES:
        raise RemoteProtocolError("A's contribution to the shared key has the wrong length")


def order_digest(order: pb.PeerOrder) -> bytes:
    """What B sends back, so that A knows B saw this very order."""
    return hashlib.sha256(order.SerializeToString(deterministic=True)).digest()


def check_accept(accept: pb.PeerAccept, order: pb.PeerOrder) -> None:
    """Run by server A. Raises RemoteProtocolError."""
    if accept.order_digest != order_digest(order):
        raise RemoteProtocolError("server B accepted another order than ours")
    if len(accept.contribution) != KEY_BYTES:
        raise RemoteProtocolError("B's contribution to the shared key has the wrong length")


def shared_key(order: pb.PeerOrder, accept: pb.PeerAccept) -> bytes:
    """The key that A and B alone know. Run by both."""
    return derive_key(order.contribution + accept.contribution, b"peer", accept.order_digest)
