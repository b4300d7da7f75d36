import pytest
import torch

from client.result_stream import MessageCost, ResultReader, summed_messages
from proto import darkroom_pb2 as pb
from protocols.errors import RemoteProtocolError
from protocols.identifiers import Role
from protocols.packing import PackingMode
from protocols.ring import to_bytes
from protocols.sharing import expand_seed

WORDS = torch.arange(-50, 38, dtype=torch.int64).view(1, 8, 11)
CONTENT = to_bytes(WORDS)
STAGE = pb.DenoiseReply(stage="waiting")


def header(**changes):
    fields = {"channels": 1, "size": pb.Size(height=8, width=11), "push_id": "5" * 32, "engine": "crypten"}
    return pb.DenoiseReply(header=pb.ResultHeader(**{**fields, **changes}))


def chunk(content=CONTENT):
    return pb.DenoiseReply(chunk=content)


def read(*replies, role=Role.A, packing=PackingMode.KEYED):
    reader = ResultReader(role, packing, 8, 11)
    for reply in replies:
        reader.receive(reply)
    return reader.finish()


def test_chunks_are_put_together():
    result = read(STAGE, header(), chunk(CONTENT[:5]), chunk(CONTENT[5:]))
    assert torch.equal(result.output, WORDS)
    assert result.packed is None


def test_blind_shares():
    seed = bytes(range(32))
    a = read(header(packed_seed=seed), chunk(), packing=PackingMode.BLIND)
    b = read(header(), chunk(), pb.DenoiseReply(packed_chunk=CONTENT), role=Role.B, packing=PackingMode.BLIND)
    assert torch.equal(a.packed, expand_seed(seed, (1, 8, 11)))
    assert torch.equal(b.packed, WORDS)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([], "without a result"),
        ([STAGE], "without a result, while waiting"),
        ([chunk()], "chunk out of order"),
        ([pb.DenoiseReply()], "an empty message out of order"),
        ([header(), header()], "header out of order"),
        ([header(), STAGE], "stage out of order"),
        ([header(), pb.DenoiseReply(packed_chunk=b"x")], "packed_chunk out of order"),
        ([header(), chunk(CONTENT[:-8])], "expected 88 ring words"),
        ([header(), chunk(), chunk(b"x")], "more than the 704 bytes"),
        ([header(channels=2), chunk()], "shape"),
        ([header(size=pb.Size(height=1 << 31, width=1 << 31))], "shape"),
        ([header(push_id="x"), chunk()], "PushId"),
    ],
)
def test_tampered_streams_are_refused(replies, message):
    with pytest.raises(RemoteProtocolError, match=message):
        read(*replies)


def test_messages_are_taken_with_their_times():
    stated = [pb.MessageCost(arithmetic_seconds=0.5, waiting_seconds=0.25, sent_bytes=8), pb.MessageCost(sent_bytes=16)]
    result = read(header(cost=pb.Cost(rounds=2, messages=stated)), chunk())
    assert result.cost.messages == (MessageCost(0.5, 0.25, 8), MessageCost(0.0, 0.0, 16))
    assert summed_messages([result.cost.messages, result.cost.messages[:1]]) == (
        MessageCost(1.0, 0.5, 16),
        MessageCost(0.0, 0.0, 16),
    )


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_times_that_are_no_numbers_are_refused(seconds):
    with pytest.raises(RemoteProtocolError, match="no numbers"):
        read(header(cost=pb.Cost(messages=[pb.MessageCost(waiting_seconds=seconds)])), chunk())


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_packed_seed_of_another_length_is_refused(seed):
    with pytest.raises(RemoteProtocolError, match="packed seed"):
        read(header(packed_seed=seed), chunk(), packing=PackingMode.BLIND)


def test_a_stage_cannot_write_to_the_terminal():
    reader = ResultReader(Role.A, PackingMode.KEYED, 8, 11)
    reader.receive(pb.DenoiseReply(stage="\x1b[2Jgone\n" + "x" * 1000))
    assert reader.stage.startswith("[2Jgone")
    assert len(reader.stage) <= 80


def test_only_what_waits_in_line_is_without_material() -> None:
    """A server that prepared the session may have it wait once more: another attempt is the user's to decide on then."""
    reader = ResultReader(Role.A, PackingMode.KEYED, 2, 3)
    seen = [reader.waiting]
    for stage in ("waiting: 1 ahead", "dealing", "waiting: 1 ahead", "evaluating"):
        reader.receive(pb.DenoiseReply(stage=stage))
        seen.append(reader.waiting)
    assert seen == [True, True, False, False, False]
