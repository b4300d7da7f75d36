"""Frames between a server process and its worker, over a socket pair."""

import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError
from server.pipe import HEADER, MAX_FRAME_BYTES, RELAY_BYTES, FrameHeader, Kind, Pipe

pytestmark = pytest.mark.integration


@pytest.fixture
def ends():
    pair = [Pipe(end) for end in socket.socketpair()]
    yield pair
    for pipe in pair:
        pipe.close()


@given(frames=st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=100)), max_size=5))
@settings(max_examples=30, deadline=None, database=None)
def test_round_trip(frames):
    ours, theirs = (Pipe(end) for end in socket.socketpair())
    for kind, label, payload in frames:
        ours.send(kind, payload, label)
    for kind, label, payload in frames:
        assert theirs.receive_header() == FrameHeader(kind, label, len(payload))
        assert theirs.receive_bytes(len(payload)) == payload
    ours.close()
    assert theirs.receive_header() is None
    theirs.close()


def test_a_large_frame_is_relayed_in_pieces(ends):
    ours, theirs = ends
    payload = bytes(range(256)) * (3 * RELAY_BYTES // 256) + b"end"
    sender = threading.Thread(target=ours.send, args=(Kind.OPENING, payload))
    sender.start()
    pieces = list(theirs.relay(theirs.receive_header().length))
    sender.join(10)
    assert b"".join(pieces) == payload
    assert [len(piece) for piece in pieces] == [RELAY_BYTES] * 3 + [3]


def test_an_end_inside_a_frame_is_an_error(ends):
    ours, theirs = ends
    ours.send_header(Kind.RESULT, 0, 100)
    ours.send_bytes(bytes(99))
    ours.close()
    header = theirs.receive_header()
    with pytest.raises(ConnectionResetError, match="in the middle of a message"):
        theirs.receive_bytes(header.length)


def test_an_end_inside_a_relayed_frame_is_an_error_after_what_came(ends):
    ours, theirs = ends
    ours.send_header(Kind.OPENING, 0, 100)
    ours.send_bytes(bytes(99))
    ours.close()
    relayed = theirs.relay(theirs.receive_header().length)
    assert next(relayed) == bytes(99)
    with pytest.raises(ConnectionResetError, match="in the middle of a message"):
        next(relayed)


def test_an_end_inside_a_header_is_an_error(ends):
    ours, theirs = ends
    ours.send_bytes(bytes(HEADER.size - 1))
    ours.close()
    with pytest.raises(ConnectionResetError, match="in the middle of a message"):
        theirs.receive_header()


@pytest.mark.parametrize(("kind", "length"), [(Kind.JOB, MAX_FRAME_BYTES + 1), (0, 0), (99, 0)])
def test_a_header_that_cannot_be_right_is_refused(ends, kind, length):
    ours, theirs = ends
    ours.send_bytes(HEADER.pack(kind, 0, length))
    with pytest.raises(LocalProtocolError, match="cannot be right"):
        theirs.receive_header()


def test_interrupting_wakes_a_thread_that_waits_and_keeps_the_descriptor(ends):
    ours, _ = ends
    found = []
    waiting = threading.Thread(target=lambda: found.append(ours.receive_header()))
    waiting.start()
    ours.interrupt()
    waiting.join(5)
    assert found == [None]
    assert ours._socket.fileno() >= 0
    with pytest.raises(BrokenPipeError):
        ours.send(Kind.GO)
    ours.close()
    assert ours._socket.fileno() == -1
    ours.interrupt()  # as an abort does that comes too late
