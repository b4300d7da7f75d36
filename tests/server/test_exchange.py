"""Openings through a worker's pipe: both ways, in order, whole, each once; nothing else passes while one is under way."""

import threading

import pytest
import torch

from protocols import ring
from protocols.errors import LocalProtocolError, MaterialReusedError, RemoteProtocolError
from protocols.identifiers import MaterialId
from protocols.openings import OpeningLedger
from server.exchange import BlockExchange, Sender, WholeExchange
from server.pipe import Kind, Pipe
from tests.server.fake_workers import NarrowSocket, memory_pipes

SECONDS = 20
WORDS = (4, 6)  # of the openings that the ledger here allows


# --- whole openings, as CrypTen asks for them ---


def whole(pipe):
    sender = Sender(pipe)
    return WholeExchange(pipe, sender), sender


def test_an_opening_goes_both_ways_in_its_shapes():
    ours, theirs = memory_pipes()
    exchange, sender = whole(ours)
    own = [torch.arange(6).view(2, 3), torch.tensor([7])]
    theirs.send(Kind.OPENING, ring.to_bytes(torch.arange(10, 17)), 4)
    received = exchange(4, own)
    assert [tensor.tolist() for tensor in received] == [[[10, 11, 12], [13, 14, 15]], [16]]
    header = theirs.receive_header()
    assert (header.kind, header.label, header.length) == (Kind.OPENING, 4, 56)
    assert ring.from_bytes(theirs.receive_bytes(56), (7,)).tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert sender.sent_bytes == 56
    sender.finish()


def test_a_view_is_sent_as_its_own_words():
    ours, theirs = memory_pipes()
    exchange, _ = whole(ours)
    theirs.send(Kind.OPENING, bytes(48), 0)
    exchange(0, [torch.arange(6).view(2, 3).T])
    theirs.receive_header()
    assert ring.from_bytes(theirs.receive_bytes(48), (6,)).tolist() == [0, 3, 1, 4, 2, 5]


NOT_DUE = pytest.mark.parametrize(
    ("kind", "label", "length", "message"),
    [
        (Kind.OPENING, 1, 16, "opening 1 of 16 bytes came in place of opening 2"),
        (Kind.OPENING, 3, 16, "opening 3 of 16 bytes came in place of opening 2"),
        (Kind.OPENING, 2, 8, "opening 2 of 8 bytes"),
        (Kind.OPENING, 2, 24, "opening 2 of 24 bytes"),
        (Kind.GO, 2, 16, "the link to the other server broke at opening 2"),
    ],
)


@NOT_DUE
def test_what_is_not_the_peers_opening_is_refused(kind, label, length, message):
    ours, theirs = memory_pipes()
    theirs.send(kind, bytes(length), label)
    with pytest.raises(RemoteProtocolError, match=message):
        whole(ours)[0](2, [torch.zeros(2, dtype=torch.int64)])


def test_a_link_that_ends_is_noticed_and_the_sender_ends_too():
    ours, theirs = memory_pipes()
    theirs.close()
    exchange, sender = whole(ours)
    with pytest.raises(RemoteProtocolError, match="broke at opening 0"):
        exchange(0, [torch.zeros(2, dtype=torch.int64)])
    sender.finish()


def test_finishing_waits_until_the_last_opening_has_left():
    ours, theirs = NarrowSocket.pair()
    ours.gate.clear()
    server = Pipe(theirs)
    exchange, sender = whole(Pipe(ours))
    server.send(Kind.OPENING, bytes(16), 0)
    exchange(0, [torch.zeros(2, dtype=torch.int64)])
    finishing = threading.Thread(target=sender.finish)
    finishing.start()
    finishing.join(0.1)
    assert finishing.is_alive()
    ours.gate.set()
    finishing.join(SECONDS)
    assert not finishing.is_alive()
    assert server.receive_header().kind is Kind.OPENING


# --- openings block by block, as the masked engine makes them ---


def blocks(words=WORDS):
    """The exchange, its sender, the server's end of the pipe, and the ledger."""
    ours, theirs = memory_pipes()
    sender, ledger = Sender(ours), OpeningLedger(MaterialId("a" * 32), words)
    return BlockExchange(ours, sender, ledger), sender, theirs, ledger


def frames(sender, server):
    """What left the worker, whole frames, as (kind, label, words)."""
    sender.finish()
    server._socket._peer.close()
    out = []
    while (header := server.receive_header()) is not None:
        out.append(
            (header.kind, header.label, ring.from_bytes(server.receive_bytes(header.length), (header.length // 8,)).tolist())
        )
    return out


def test_blocks_are_one_opening_and_stand_in_the_ledger_once():
    exchange, sender, server, ledger = blocks()
    server.send(Kind.OPENING, ring.to_bytes(torch.arange(10, 14)), 0)
    exchange.begin(0, 4)
    exchange.send(torch.arange(3).view(1, 3, 1))
    assert exchange.receive((1, 3, 1)).flatten().tolist() == [10, 11, 12]
    assert ledger.rounds == 0  # not before the last word is here
    exchange.send(torch.tensor([[[3]]]))
    assert exchange.receive((1, 1, 1)).tolist() == [[[13]]]
    assert ledger.rounds == 1
    server.send(Kind.OPENING, ring.to_bytes(torch.arange(6)), 1)
    exchange.begin(1, 6)
    exchange.send(torch.arange(6).view(2, 3).T)
    exchange.receive((6,))
    assert ledger.finished
    assert sender.sent_bytes == 80
    assert frames(sender, server) == [(Kind.OPENING, 0, [0, 1, 2, 3]), (Kind.OPENING, 1, [0, 3, 1, 4, 2, 5])]


def opened(exchange, server, index=0, words=4):
    server.send(Kind.OPENING, bytes(8 * words), index)
    exchange.begin(index, words)
    exchange.send(torch.zeros(words, dtype=torch.int64))
    exchange.receive((words,))


def test_a_second_opening_under_one_number_does_not_leave():
    exchange, sender, server, _ = blocks()
    opened(exchange, server)
    with pytest.raises(MaterialReusedError, match="opening 0 under material"):
        exchange.begin(0, 4)
    assert len(frames(sender, server)) == 1


def test_a_second_opening_while_the_first_is_under_way_does_not_leave():
    exchange, sender, server, _ = blocks()
    exchange.begin(0, 4)
    exchange.send(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(MaterialReusedError, match="opening 0"):
        exchange.begin(0, 4)
    with pytest.raises(LocalProtocolError, match="out of order"):
        exchange.begin(1, 6)
    assert len(frames(sender, server)) == 1


@pytest.mark.parametrize(("index", "words"), [(1, 6), (0, 5), (0, 3), (2, 4)])
def test_an_opening_that_is_not_the_next_of_the_plan_does_not_leave(index, words):
    exchange, sender, server, _ = blocks()
    with pytest.raises(LocalProtocolError):
        exchange.begin(index, words)
    assert frames(sender, server) == []


def test_there_is_no_opening_after_the_last():
    exchange, sender, server, _ = blocks((4,))
    opened(exchange, server)
    with pytest.raises(LocalProtocolError, match="the plan does not allow"):
        exchange.begin(1, 4)
    assert len(frames(sender, server)) == 1


def test_a_word_more_than_was_announced_does_not_leave():
    exchange, sender, server, _ = blocks()
    exchange.begin(0, 4)
    exchange.send(torch.arange(4))
    with pytest.raises(LocalProtocolError, match="opening 0 is longer than the plan allows"):
        exchange.send(torch.tensor([4]))
    assert frames(sender, server) == [(Kind.OPENING, 0, [0, 1, 2, 3])]


def test_nothing_is_sent_before_an_opening_was_announced():
    exchange, sender, server, _ = blocks()
    with pytest.raises(LocalProtocolError, match="longer than the plan allows"):
        exchange.send(torch.tensor([1]))
    assert frames(sender, server) == []


@NOT_DUE
def test_what_is_not_the_peers_opening_is_refused_block_by_block(kind, label, length, message):
    exchange, _, server, ledger = blocks((1, 1, 2))
    for index in range(2):
        opened(exchange, server, index, 1)
    server.send(kind, bytes(length), label)
    exchange.begin(2, 2)
    with pytest.raises(RemoteProtocolError, match=message):
        exchange.receive((2,))
    assert ledger.rounds == 2


def test_a_peers_opening_that_breaks_off_is_noticed():
    exchange, _, server, ledger = blocks()
    server.send_header(Kind.OPENING, 0, 32)
    server.send_bytes(bytes(16))
    exchange.begin(0, 4)
    exchange.receive((2,))
    server.close()
    with pytest.raises((RemoteProtocolError, OSError)):
        exchange.receive((2,))
    assert ledger.rounds == 0


def test_an_opening_whose_own_words_have_not_all_left_is_not_over():
    exchange, _, server, ledger = blocks()
    server.send(Kind.OPENING, bytes(32), 0)
    exchange.begin(0, 4)
    exchange.send(torch.tensor([1, 2, 3]))
    exchange.receive((4,))
    assert ledger.rounds == 1
    with pytest.raises(LocalProtocolError, match="opening 1 was begun before opening 0 had left"):
        exchange.begin(1, 6)


def test_an_opening_is_not_read_beyond_its_end():
    exchange, _, server, _ = blocks()
    server.send(Kind.OPENING, bytes(32), 0)
    exchange.begin(0, 4)
    exchange.receive((3,))
    with pytest.raises(LocalProtocolError, match="opening 0 is read beyond its end"):
        exchange.receive((2,))
