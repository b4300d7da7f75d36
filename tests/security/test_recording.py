import pytest

from proto import darkroom_pb2 as pb
from security.recorded_calls import RecordedStub, tapped
from security.recording import ENDED, METADATA, RECEIVED, SENT, Entry, Recorder, read_entries
from security.structure import difference, structure


class FakeCall:
    def __init__(self, messages):
        self._messages = iter(messages)
        self.cancelled = False

    def __next__(self):
        return next(self._messages)

    def cancel(self):
        self.cancelled = True


class FakeStub:
    def OpenMaterial(self, request, timeout):
        return pb.OpenMaterialReply(material_id="5" * 32)

    def Follow(self, requests, timeout):
        self.sent = list(requests)
        return FakeCall([pb.PeerMessage(ready=pb.PeerReady())])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "server-a.rec"


def test_what_is_recorded_is_read_back_in_order(path):
    recorder = Recorder(path)
    messages = [pb.StoreRequest(chunk=bytes([n]) * n) for n in range(5)]
    assert list(tapped(recorder, "client Store", RECEIVED, iter(messages))) == messages
    entries, end = read_entries(path)
    assert [entry.message() for entry in entries] == messages
    recorder.message("client Store", SENT, pb.StoreReply())
    later, _ = read_entries(path, end)
    assert [(entry.direction, entry.kind, entry.payload) for entry in later] == [(SENT, "StoreReply", b"")]


def test_metadata_of_a_call_is_recorded(path):
    Recorder(path).metadata("edge Denoise", RECEIVED, [("user-agent", "grpc-python"), ("key-bin", b"\xff\x00")])
    entries, _ = read_entries(path)
    assert [(entry.link, entry.kind) for entry in entries] == [("edge Denoise", METADATA)] * 2
    assert [entry.payload for entry in entries] == [b"user-agent: grpc-python", b"key-bin: \xff\x00"]


def test_a_missing_recording_is_empty(path):
    assert read_entries(path, 7) == ([], 7)


def test_a_recorded_stub_behaves_as_the_stub(path):
    stub = FakeStub()
    recorded = RecordedStub(Recorder(path), "dealer", stub)
    assert recorded.OpenMaterial(pb.OpenMaterialRequest(), timeout=1.0).material_id == "5" * 32
    call = recorded.Follow(iter([pb.PeerMessage(hello=pb.PeerHello())]), timeout=1.0)
    assert [message.WhichOneof("content") for message in call] == ["ready"]
    call.cancel()
    assert call._call.cancelled
    assert [(entry.link, entry.direction) for entry in read_entries(path)[0]] == [
        ("dealer OpenMaterial", SENT),
        ("dealer OpenMaterial", RECEIVED),
        ("dealer Follow", SENT),
        ("dealer Follow", RECEIVED),
    ]


def entry(message, link="edge Denoise", direction=RECEIVED):
    return Entry(link, direction, message.DESCRIPTOR.name, message.SerializeToString())


def request(**fields):
    return pb.DenoiseRequest(**({"session_id": "1" * 32, "noise_key": bytes(32), "sigma_share": 5} | fields))


def reply(**cost):
    return pb.DenoiseReply(header=pb.ResultHeader(channels=1, cost=pb.Cost(**cost)))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (request(), request(session_id="2" * 32, noise_key=bytes(range(32)), sigma_share=-1), True),
        (request(), request(noise_key=bytes(31)), False),
        (request(), request(noise_key=b""), False),
        (reply(online_seconds=1.0, peak_rss_bytes=1 << 28), reply(online_seconds=2.0, peak_rss_bytes=1 << 29), True),
        (reply(sent_bytes=8), reply(sent_bytes=16), False),
        (pb.DenoiseReply(stage="dealing"), pb.DenoiseReply(stage="waiting"), False),
    ],
    ids=["other values", "a shorter key", "no key", "other times", "more bytes", "another stage"],
)
def test_structures_are_equal_exactly_when_sizes_and_order_are(first, second, same):
    found = difference(structure({"server-a": [entry(first)]}), structure({"server-a": [entry(second)]}))
    assert (not found) is same


def test_one_message_more_another_order_and_another_end_are_differences():
    one, two = entry(request()), entry(request(noise_key=b""))
    ended = [Entry("edge Denoise", ENDED, "", how) for how in (b"OK", b"cancelled")]
    for left, right in (([one], [one, one]), ([one, two], [two, one]), ([ended[0]], [ended[1]]), ([], [one])):
        assert difference(structure({"server-a": left}), structure({"server-a": right}))
