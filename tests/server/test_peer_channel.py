"""The A-B link of one session, joined in memory; and the place where A finds B's stream."""

import threading

import grpc
import pytest

from proto import darkroom_pb2 as pb
from protocols.errors import BusyError, LocalProtocolError, PeerUnavailableError, RemoteProtocolError, SessionBrokenError
from protocols.identifiers import Role, SessionId
from server import peer_channel
from server.peer_channel import QUEUED_MESSAGES, MeetingPoint, PeerChannel

SESSION, OTHER = SessionId("1" * 32), SessionId("2" * 32)


def opening(label):
    return pb.PeerMessage(opening=pb.Opening(label=label))


def joined():
    """A's and B's ends; what one sends the other receives, and who breaks the link off ends both directions."""
    a, b = PeerChannel(Role.B), PeerChannel(Role.A)
    a.attach(b.outgoing(), cancel=b.close)
    b.attach(a.outgoing(), cancel=a.close)
    return a, b


def running(action, *arguments):
    """Run in a thread; the list receives the error, or None."""
    outcome = []

    def run():
        try:
            action(*arguments)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


@pytest.fixture(autouse=True)
def looking_often(monkeypatch):
    monkeypatch.setattr(peer_channel, "LOOK_SECONDS", 0.05)


def test_messages_arrive_in_order_and_both_ways():
    a, b = joined()
    for label in range(QUEUED_MESSAGES):
        a.send(opening(label))
        b.send(opening(100 + label))
    assert [b.expect("opening").opening.label for _ in range(QUEUED_MESSAGES)] == list(range(QUEUED_MESSAGES))
    assert a.receive().opening.label == 100


def test_another_kind_of_message_is_refused():
    a, b = joined()
    a.send(pb.PeerMessage(ready=pb.PeerReady()))
    with pytest.raises(RemoteProtocolError, match="server A sent ready where opening was due"):
        b.expect("opening")
    a.send(pb.PeerMessage())
    with pytest.raises(RemoteProtocolError, match="server A sent nothing where accept was due"):
        b.expect("accept")


def test_closing_ends_the_stream_after_what_is_queued():
    a, b = joined()
    a.send(opening(1))
    a.close()
    a.close()
    assert b.receive().opening.label == 1
    with pytest.raises(PeerUnavailableError, match="server A ended the link"):
        b.receive()
    with pytest.raises(PeerUnavailableError, match="the link to server B is closed"):
        a.send(opening(2))


def test_closing_a_full_queue_loses_nothing():
    a, b = joined()
    for label in range(QUEUED_MESSAGES):
        a.send(opening(label))
    a.close()
    assert [b.receive().opening.label for _ in range(QUEUED_MESSAGES)] == list(range(QUEUED_MESSAGES))
    with pytest.raises(PeerUnavailableError):
        b.receive()


def test_memory_is_bounded_a_sender_waits():
    a, b = joined()
    for label in range(QUEUED_MESSAGES):
        a.send(opening(label))
    thread, outcome = running(a.send, opening(99))
    thread.join(0.2)
    assert thread.is_alive()
    b.receive()
    thread.join(5)
    assert outcome == [None]


def test_closing_wakes_a_sender_that_waits():
    a, _ = joined()
    for label in range(QUEUED_MESSAGES):
        a.send(opening(label))
    thread, outcome = running(a.send, opening(99))
    a.close()
    thread.join(5)
    assert isinstance(outcome[0], PeerUnavailableError)


def test_a_peer_that_takes_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(peer_channel, "STALL_SECONDS", 1.0)
    a, _ = joined()
    for label in range(QUEUED_MESSAGES):
        a.send(opening(label))
    with pytest.raises(PeerUnavailableError, match="server B has taken nothing for 1 s"):
        a.send(opening(99))


def test_a_broken_link_is_no_end():
    def breaks():
        yield opening(0)
        raise grpc.RpcError

    channel = PeerChannel(Role.A)
    channel.attach(breaks())
    channel.receive()
    with pytest.raises(PeerUnavailableError, match="the link to server A broke;"):
        channel.receive()


def test_a_channel_that_is_attached_to_nothing():
    with pytest.raises(LocalProtocolError, match="not attached"):
        PeerChannel(Role.A).receive()


def test_finishing_waits_for_the_other_end():
    a, b = joined()
    thread, outcome = running(b.finish)
    thread.join(0.2)
    assert thread.is_alive()
    a.send(opening(0))  # on its way still
    a.close()
    thread.join(5)
    assert outcome == [None]
    with pytest.raises(PeerUnavailableError):
        a.receive()


def test_aborting_breaks_off_the_call_that_carries_it():
    cancelled = []
    channel = PeerChannel(Role.A)
    channel.attach(iter(()), cancel=lambda: cancelled.append(True))
    channel.abort()
    assert cancelled == [True]
    with pytest.raises(PeerUnavailableError, match="closed"):
        channel.send(opening(0))


# --- the meeting point ---


def test_they_meet_whoever_comes_first():
    meeting, early, late = MeetingPoint(), PeerChannel(Role.B), PeerChannel(Role.B)
    meeting.arrive(SESSION, early)
    assert meeting.take(SESSION, 0) is early
    found = []
    thread = threading.Thread(target=lambda: found.append(meeting.take(OTHER, 10)))
    thread.start()
    meeting.arrive(SESSION, early)  # another session's stream does not wake it for good
    meeting.arrive(OTHER, late)
    thread.join(5)
    assert found == [late]


def test_a_stream_is_taken_once():
    meeting = MeetingPoint()
    meeting.arrive(SESSION, PeerChannel(Role.B))
    meeting.take(SESSION, 0)
    with pytest.raises(PeerUnavailableError, match="did not join the session"):
        meeting.take(SESSION, 0)


def test_a_stream_that_has_left_is_not_found():
    meeting = MeetingPoint()
    meeting.arrive(SESSION, PeerChannel(Role.B))
    meeting.leave(SESSION)
    meeting.leave(SESSION)
    with pytest.raises(PeerUnavailableError):
        meeting.take(SESSION, 0)


def test_two_streams_for_one_session_are_refused():
    meeting, first = MeetingPoint(), PeerChannel(Role.B)
    meeting.arrive(SESSION, first)
    with pytest.raises(RemoteProtocolError, match="opened session 1111.* twice"):
        meeting.arrive(SESSION, PeerChannel(Role.B))
    assert meeting.take(SESSION, 0) is first


def test_waiting_streams_are_bounded(monkeypatch):
    monkeypatch.setattr(peer_channel, "WAITING_LIMIT", 1)
    meeting = MeetingPoint()
    meeting.arrive(SESSION, PeerChannel(Role.B))
    with pytest.raises(BusyError, match="1 sessions of server B are waiting"):
        meeting.arrive(OTHER, PeerChannel(Role.B))
    meeting.take(SESSION, 0)
    meeting.arrive(OTHER, PeerChannel(Role.B))


def test_a_stream_that_nobody_asks_for_is_sent_away():
    meeting, (ours, theirs) = MeetingPoint(), joined()
    meeting.arrive(SESSION, ours)
    meeting.expire(SESSION)
    with pytest.raises(PeerUnavailableError):
        theirs.receive()
    with pytest.raises(PeerUnavailableError, match="did not join"):
        meeting.take(SESSION, 0)


def test_a_stream_that_was_asked_for_stays():
    meeting, (ours, theirs) = MeetingPoint(), joined()
    meeting.arrive(SESSION, ours)
    assert meeting.take(SESSION, 0) is ours
    meeting.expire(SESSION)
    ours.send(opening(1))
    assert theirs.receive().opening.label == 1


def test_a_session_that_is_given_up_does_not_wait_for_its_stream():
    """A push that the model owner has left would keep one of the owner's two places for minutes."""
    point, gone = MeetingPoint(), threading.Event()
    thread, outcome = running(lambda: point.take(SESSION, 60, gone.is_set))
    gone.set()
    point.wake()
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(outcome[0], SessionBrokenError)
