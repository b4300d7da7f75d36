"""The opening ledger: each opening is sent and accepted once, in plan order, with the words that the plan says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, MaterialReusedError, ProtocolError, RemoteProtocolError
from protocols.identifiers import MaterialId
from protocols.openings import OpeningLedger

MATERIAL = MaterialId("a" * 32)
WORDS = (5, 7, 7)
quick = settings(max_examples=120, deadline=None, database=None)


def ledger(*, sent=0, accepted=0):
    ledger = OpeningLedger(MATERIAL, WORDS)
    for index in range(sent):
        ledger.sending(index, WORDS[index])
        if index < accepted:
            ledger.accepting(index, WORDS[index])
    return ledger


def test_the_whole_plan():
    openings = OpeningLedger(MATERIAL, WORDS)
    for index, words in enumerate(WORDS):
        assert openings.rounds == index
        assert not openings.finished
        openings.sending(index, words)
        assert not openings.finished
        openings.accepting(index, words)
    assert openings.finished
    assert openings.rounds == 3


@pytest.mark.parametrize("index", [0, 1])
def test_sending_twice_is_reuse(index):
    with pytest.raises(MaterialReusedError, match=f"opening {index} under material aaaa.* already sent"):
        ledger(sent=2, accepted=2).sending(index, WORDS[index])


def test_sending_again_before_the_peer_answered_is_reuse():
    with pytest.raises(MaterialReusedError, match="already sent"):
        ledger(sent=1).sending(0, 5)


@pytest.mark.parametrize("index", [0, 1])
def test_accepting_twice_is_reuse(index):
    with pytest.raises(MaterialReusedError, match=f"opening {index} .* second time"):
        ledger(sent=2, accepted=2).accepting(index, WORDS[index])


@pytest.mark.parametrize(("sent", "accepted", "index"), [(0, 0, 1), (0, 0, 2), (1, 1, 2), (1, 0, 1), (2, 1, 2)])
def test_sending_out_of_order(sent, accepted, index):
    with pytest.raises(LocalProtocolError, match="out of order") as caught:
        ledger(sent=sent, accepted=accepted).sending(index, WORDS[index])
    assert type(caught.value) is LocalProtocolError


@pytest.mark.parametrize(("sent", "accepted", "index"), [(0, 0, 0), (1, 0, 1), (1, 1, 1), (1, 0, 2), (2, 2, 2)])
def test_accepting_out_of_order(sent, accepted, index):
    """Also the peer's opening before ours has been sent: it could depend on nothing of ours, but its place is wrong."""
    with pytest.raises(RemoteProtocolError, match="out of order"):
        ledger(sent=sent, accepted=accepted).accepting(index, WORDS[index])


@pytest.mark.parametrize("words", [0, 4, 6, 7])
def test_wrong_length(words):
    with pytest.raises(LocalProtocolError, match="the plan does not allow"):
        ledger().sending(0, words)
    with pytest.raises(RemoteProtocolError, match="the plan says 5"):
        ledger(sent=1).accepting(0, words)


def test_past_the_end():
    with pytest.raises(LocalProtocolError, match="the plan does not allow"):
        ledger(sent=3, accepted=3).sending(3, 5)


def test_a_refused_step_changes_nothing():
    openings = ledger(sent=1)
    for wrong in (lambda: openings.sending(0, 5), lambda: openings.accepting(1, 7), lambda: openings.accepting(0, 6)):
        with pytest.raises(ProtocolError):
            wrong()
    openings.accepting(0, 5)
    openings.sending(1, 7)


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from([5, 7])), max_size=30))
@quick
def test_whatever_is_asked_nothing_is_ever_opened_twice(steps):
    openings, sent, accepted = OpeningLedger(MATERIAL, WORDS), [], []
    for sends, index, words in steps:
        try:
            (openings.sending if sends else openings.accepting)(index, words)
        except ProtocolError:
            continue
        (sent if sends else accepted).append(index)
        assert words == WORDS[index]
    assert sent == list(range(len(sent)))
    assert accepted == list(range(len(accepted)))
    assert len(accepted) <= len(sent) <= len(accepted) + 1
    assert openings.finished == (len(accepted) == len(WORDS))
