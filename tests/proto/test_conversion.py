"""The seam between wire and domain."""

import pytest

from proto import darkroom_pb2 as pb
from proto.conversion import packing_from_wire, packing_to_wire
from protocols.errors import RemoteProtocolError
from protocols.packing import PackingMode


@pytest.mark.parametrize("mode", PackingMode)
def test_every_mode_round_trips(mode):
    assert packing_from_wire(packing_to_wire(mode)) is mode


def test_numbers_on_the_wire_never_change():
    assert {mode: packing_to_wire(mode) for mode in PackingMode} == {
        PackingMode.KEYED: 1,
        PackingMode.GAUSSIAN: 2,
        PackingMode.BLIND: 3,
    }


@pytest.mark.parametrize("number", [pb.PACKING_UNSPECIFIED, 4, 77, -1])
def test_a_mode_that_was_left_out_or_is_unknown_is_refused(number):
    """Unspecified must not mean a mode: a message that lost the field would be unpacked in the wrong one."""
    with pytest.raises(RemoteProtocolError, match=f"unknown packing mode {number}"):
        packing_from_wire(number)
