"""What a server relays between its worker, the other server and the dealer: as planned, or refused. Workers are played."""

import threading
from dataclasses import dataclass

import pytest

from proto import darkroom_pb2 as pb
from protocols.errors import (
    LocalProtocolError,
    PeerUnavailableError,
    RemoteProtocolError,
)
from protocols.identifiers import Role
from protocols.layers import Conv, Gate
from protocols.network import IMAGE_WIRE, Network
from protocols.plan import plan_for
from server.peer_channel import PeerChannel
from server.pipe import Kind
from server.relays import expect, opening_chunks, relay_corrections, relay_openings
from tests.server.fake_workers import memory_pipes
from tests.server.test_peer_channel import joined

NETWORK = Network((Conv("c", IMAGE_WIRE, 2, 3, padding=1), Gate("g", "c")))
PLAN = plan_for(NETWORK, 8, 9)
SECONDS = 20


# --- openings from the peer ---


def pieces(*parts, total=24, label=3):
    """The peer's messages: (offset, bytes) of one opening, or whole openings."""
    channel = PeerChannel(Role.A)
    messages = [part if isinstance(part, pb.PeerMessage) else piece(*part, total=total, label=label) for part in parts]
    channel.attach(iter(messages))
    return channel


def piece(offset, chunk, *, total=24, label=3):
    return pb.PeerMessage(opening=pb.Opening(label=label, offset=offset, total_bytes=total, chunk=chunk))


def read(channel):
    return b"".join(chunk for _, _, chunk in opening_chunks(channel, 3, 24))


@pytest.mark.parametrize("cuts", [[24], [8, 16], [1, 22, 1]])
def test_an_opening_comes_in_any_pieces(cuts):
    content, parts, offset = bytes(range(24)), [], 0
    for length in cuts:
        parts.append((offset, content[offset : offset + length]))
        offset += length
    assert read(pieces(*parts, (0, b"the next"))) == content


BROKEN = {
    "a gap": [(0, bytes(8)), (16, bytes(8))],
    "a repeat": [(0, bytes(8)), (0, bytes(8))],
    "an overlap": [(0, bytes(8)), (7, bytes(8))],
    "not from the start": [(8, bytes(16))],
    "a piece too long": [(0, bytes(25))],
    "a last piece too long": [(0, bytes(16)), (16, bytes(9))],
    "an empty piece": [(0, b"")],
    "another total": [piece(0, bytes(24), total=32)],
    "a total that changes": [(0, bytes(8)), piece(8, bytes(16), total=25)],
    "another label": [piece(0, bytes(24), label=4)],
    "an earlier label": [piece(0, bytes(24), label=2)],
    "a label that changes": [(0, bytes(8)), piece(8, bytes(16), label=4)],
    "another kind of message": [pb.PeerMessage(ready=pb.PeerReady())],
    "an empty message": [pb.PeerMessage()],
}


@pytest.mark.parametrize("name", BROKEN)
def test_openings_that_are_not_as_planned_are_refused(name):
    with pytest.raises(RemoteProtocolError):
        read(pieces(*BROKEN[name]))


def test_an_opening_that_ends_early_is_a_broken_link():
    with pytest.raises(PeerUnavailableError, match="ended the link"):
        read(pieces((0, bytes(8))))


# --- corrections from the dealer ---


def correction(label, offset, chunk, total=16):
    return pb.Correction(label=label, offset=offset, total_bytes=total, chunk=chunk)


def relayed(corrections, due=(16, 8)):
    ours, theirs = memory_pipes()
    relay_corrections(iter(corrections), ours, due)
    ours.close()
    frames = []
    while (header := theirs.receive_header()) is not None:
        frames.append((header.kind, header.label, bytes(theirs.receive_bytes(header.length))))
    return frames


def test_corrections_are_passed_on():
    first, second = bytes(range(16)), bytes(8)
    assert relayed([correction(0, 0, first[:9]), correction(0, 9, first[9:]), correction(1, 0, second, 8)]) == [
        (Kind.CORRECTION, 0, first),
        (Kind.CORRECTION, 1, second),
    ]
    assert relayed([], due=()) == []


WHOLE = [correction(0, 0, bytes(16)), correction(1, 0, bytes(8), 8)]
BAD_CORRECTIONS = {
    "none": [],
    "one too few": WHOLE[:1],
    "one too many": [*WHOLE, correction(2, 0, bytes(8), 8)],
    "in another order": WHOLE[::-1],
    "the same twice": [WHOLE[0], WHOLE[0]],
    "a gap": [correction(0, 0, bytes(8)), correction(0, 9, bytes(7))],
    "a repeat": [correction(0, 0, bytes(8)), correction(0, 0, bytes(8))],
    "an end inside": [WHOLE[0], correction(1, 0, bytes(7), 8)],
    "a piece too long": [correction(0, 0, bytes(17))],
    "an empty piece": [correction(0, 0, b"")],
    "another length": [correction(0, 0, bytes(8), 8)],
    "a label that changes": [correction(0, 0, bytes(8)), correction(1, 8, bytes(8))],
}


@pytest.mark.parametrize("name", BAD_CORRECTIONS)
def test_corrections_that_are_not_as_planned_are_refused(name):
    with pytest.raises(RemoteProtocolError, match="correction"):
        relayed(BAD_CORRECTIONS[name])


def test_server_a_is_dealt_no_corrections():
    with pytest.raises(RemoteProtocolError, match="correction 0"):
        relayed(WHOLE, due=())


# --- openings between worker and peer ---


@dataclass
class Relay:
    """`relay_openings` in a thread; the test plays the worker and the peer."""

    def __post_init__(self):
        ours, self.worker = memory_pipes()
        self.pipe = ours
        channel, self.peer = joined()
        self.outcome = []
        self._thread = threading.Thread(target=self._run, args=(ours, channel), daemon=True)
        self._thread.start()

    def _run(self, pipe, channel):
        try:
            self.outcome.append(relay_openings(pipe, channel, PLAN))
        except Exception as error:
            self.outcome.append(error)

    def open_all(self):
        for label in range(len(PLAN.correlations)):
            words = PLAN.opened_words(label) * 8
            self.worker.send(Kind.OPENING, bytes([label]) * words, label)
            self.peer.send(piece(0, bytes([7 + label]) * words, label=label, total=words))

    def result(self):
        self._thread.join(SECONDS)
        return self.outcome[0]


def test_openings_go_both_ways_and_the_result_comes_back():
    relay = Relay()
    relay.open_all()
    relay.worker.send(Kind.STATS, pb.WorkerStats(rounds=2).SerializeToString())
    relay.worker.send(Kind.RESULT, b"share")
    stats, share = relay.result()
    assert (stats.rounds, share) == (2, b"share")
    for label in range(2):
        sent = relay.peer.expect("opening").opening
        words = PLAN.opened_words(label) * 8
        assert (sent.label, sent.offset, sent.total_bytes, sent.chunk) == (label, 0, words, bytes([label]) * words)
        header = relay.worker.receive_header()
        assert (header.kind, header.label) == (Kind.OPENING, label)
        assert relay.worker.receive_bytes(header.length) == bytes([7 + label]) * words


def test_a_worker_that_says_why_it_failed():
    relay = Relay()
    relay.worker.send(Kind.FAILED, b"MaterialReusedError: twice")
    assert isinstance(relay.result(), RemoteProtocolError)
    assert "the evaluation failed: MaterialReusedError: twice" in str(relay.result())


def test_a_worker_that_ends():
    relay = Relay()
    relay.worker.close()
    assert isinstance(relay.result(), PeerUnavailableError)


def test_a_peer_that_breaks_the_rules_stops_the_worker():
    relay = Relay()
    relay.peer.send(piece(0, bytes(8), label=1, total=8))
    assert isinstance(relay.result(), RemoteProtocolError)
    assert "where bytes 0.. of 576 of opening 0 were due" in str(relay.result())
    assert relay.worker.receive_header() is None


def test_a_peer_that_leaves_stops_the_worker():
    relay = Relay()
    relay.peer.close()
    assert isinstance(relay.result(), PeerUnavailableError)
    assert relay.worker.receive_header() is None


@pytest.mark.parametrize("waits_for", ["the peer", "the worker"])
def test_nobody_uses_the_pipe_when_a_relay_has_failed(waits_for):
    """Who closes it next would close it under the other thread, which carries openings."""
    ours, worker = memory_pipes()
    broken_off, reached, over = (threading.Event() for _ in range(3))
    late = []

    def end():
        late.append(over.wait(0.3))

    def silent_peer():
        if waits_for == "the worker":
            yield piece(0, bytes(8), label=0, total=PLAN.opened_words(0) * 8)
        reached.set()
        assert broken_off.wait(SECONDS)
        end()

    def full(_):
        reached.set()
        assert interrupted.wait(SECONDS)
        end()
        raise BrokenPipeError

    interrupted = threading.Event()
    interrupt = ours.interrupt
    ours.interrupt = lambda: (interrupted.set(), interrupt())
    if waits_for == "the worker":
        ours.send_bytes = full
    channel = PeerChannel(Role.A)
    channel.attach(silent_peer(), cancel=broken_off.set)
    failing = threading.Thread(target=lambda: (reached.wait(SECONDS), worker.close()))
    failing.start()
    with pytest.raises(PeerUnavailableError, match="the worker process ended"):
        relay_openings(ours, channel, PLAN)
    over.set()
    failing.join(SECONDS)
    assert late == [False]
    assert broken_off.is_set()


def test_a_frame_that_is_not_due():
    ours, theirs = memory_pipes()
    theirs.send(Kind.GO)
    with pytest.raises(LocalProtocolError, match="the worker sent GO where READY was due"):
        expect(ours, Kind.READY)
    theirs.close()
    with pytest.raises(PeerUnavailableError, match="the worker process ended"):
        expect(ours, Kind.READY)
