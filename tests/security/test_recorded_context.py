import grpc
import pytest

from proto.status import RETRY_KEY, abort
from protocols.errors import PeerUnavailableError
from security.recorded_context import RecordedContext
from security.recording import METADATA, RECEIVED, SENT, Recorder, read_entries


class Ended(Exception):
    pass


class FakeContext:
    """A call's context that keeps what it is told."""

    def __init__(self):
        self.told = []

    def invocation_metadata(self):
        return (("user-agent", "grpc-python"),)

    def is_active(self):
        return True

    def set_trailing_metadata(self, pairs):
        self.told.append(tuple(pairs))

    send_initial_metadata = set_trailing_metadata

    def set_details(self, details):
        self.told.append(details)

    def abort(self, code, details):
        self.told.append((code, details))
        raise Ended

    def abort_with_status(self, status):
        self.told.append(status)
        raise Ended


class Status(grpc.Status):
    code, details, trailing_metadata = grpc.StatusCode.ABORTED, "no", (("x-why", "because"),)


@pytest.fixture
def context():
    return FakeContext()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "party.metadata"


@pytest.fixture
def recorded(context, path):
    return RecordedContext(context, Recorder(path), "edge Denoise")


def entries(path):
    found, _ = read_entries(path)
    assert {(entry.link, entry.kind) for entry in found} == {("edge Denoise", METADATA)}
    return [(entry.direction, entry.payload) for entry in found]


RECEIVED_FIRST = (RECEIVED, b"user-agent: grpc-python")


def test_the_error_of_a_call_and_when_to_try_again_are_recorded_and_sent(context, recorded, path):
    with pytest.raises(Ended):
        abort(recorded, PeerUnavailableError("the queue is full", retry_seconds=7))
    assert context.told == [((RETRY_KEY, "7"),), (grpc.StatusCode.ABORTED, "the queue is full")]
    sent = [(SENT, f"{RETRY_KEY}: 7".encode()), (SENT, b"details: the queue is full")]
    assert entries(path) == [RECEIVED_FIRST, *sent]


def test_every_other_way_to_send_something_beside_messages_is_recorded(context, recorded, path):
    status = Status()
    recorded.send_initial_metadata(iter([("x-first", b"\xff")]))
    recorded.set_details("slow")
    with pytest.raises(Ended):
        recorded.abort_with_status(status)
    assert context.told == [(("x-first", b"\xff"),), "slow", status]
    sent = [(SENT, b"x-first: \xff"), (SENT, b"details: slow"), (SENT, b"details: no"), (SENT, b"x-why: because")]
    assert entries(path) == [RECEIVED_FIRST, *sent]


def test_the_rest_is_the_contexts_own(recorded):
    assert recorded.is_active()
    with pytest.raises(AttributeError):
        recorded.peer_identities()
