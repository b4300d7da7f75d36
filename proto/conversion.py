"""Conversion between wire and domain types: the one seam."""

from typing import Final

from proto import darkroom_pb2 as pb
from protocols.errors import RemoteProtocolError
from protocols.packing import PackingMode

_PACKING: Final = {
    pb.PACKING_KEYED: PackingMode.KEYED,
    pb.PACKING_GAUSSIAN: PackingMode.GAUSSIAN,
    pb.PACKING_BLIND: PackingMode.BLIND,
}


def packing_from_wire(value: "pb.Packing") -> PackingMode:
    """Raises RemoteProtocolError for a value that this version does not know."""
    mode = _PACKING.get(value)
    if mode is None:
        raise RemoteProtocolError(f"unknown packing mode {value}")
    return mode


def packing_to_wire(mode: PackingMode) -> "pb.Packing":
    """The wire's number for a packing mode."""
    return next(number for number, known in _PACKING.items() if known is mode)
