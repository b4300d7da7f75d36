"""The worker process on the masked engine: its corrections, a whole job, and what a flag holds back."""

import pytest
import torch

from proto import darkroom_pb2 as pb
from protocols import ring
from protocols.engines import MASKED
from protocols.errors import RemoteProtocolError
from protocols.identifiers import Role
from protocols.masked_plan import masked_plan
from server.pipe import Kind
from server.worker import MaskedJob, shared_model
from tests.protocols.covered_layers import items_of
from tests.server.fake_workers import memory_pipes
from tests.server.test_worker import KEY, NETWORK, SECONDS, frames, started, whole_job

MASKED_PLAN = masked_plan(NETWORK, 8, 9)


def folded(frames, role=Role.B):
    """A job of the masked engine that has read these frames while it folded."""
    ours, theirs = memory_pipes()
    for kind, label, length in frames:
        ours.send(kind, bytes(length), label)
    ours.close()
    job = pb.WorkerJob(material_seed=KEY)
    MaskedJob(job, role, MASKED_PLAN, shared_model(whole_job(), NETWORK), theirs).prepare()
    return theirs.receive_header()


MASKED_DUE = [(Kind.CORRECTION, index, size) for index, size in enumerate(MASKED_PLAN.correction_sizes)]


def test_the_masked_engine_reads_every_correction_at_b_and_none_at_a():
    assert folded(MASKED_DUE) is None
    assert folded(MASKED_DUE, Role.A).label == 0  # left unread


@pytest.mark.parametrize(
    "frames",
    [
        [],
        MASKED_DUE[:1],
        MASKED_DUE[::-1],
        [MASKED_DUE[0], MASKED_DUE[0]],
        [(Kind.OPENING, 0, MASKED_DUE[0][2])],
        [(Kind.CORRECTION, 0, MASKED_DUE[0][2] - 8)],
        [(Kind.CORRECTION, 0, MASKED_DUE[0][2] + 8)],
        [(Kind.GO, 0, 0)],
    ],
)
def test_the_masked_engine_refuses_corrections_that_are_not_as_planned(frames):
    with pytest.raises(RemoteProtocolError, match="correction"):
        folded(frames)


def masked_run(role, opened=None):
    """The worker of one server, ours in the peer's place. opened: c of every word of message 2, or the peer sends zeros.

    Returns the worker's frames after READY, and what it raised.
    """
    server, _, thread, errors = started(job=whole_job(MASKED, role))
    if role is Role.B:
        for index, size in enumerate(MASKED_PLAN.correction_sizes):
            server.send(Kind.CORRECTION, bytes(size), index)
    assert next(frames(server)) == (Kind.READY, b"")
    server.send(Kind.GO)
    sent = []
    for index in range(MASKED_PLAN.rounds):
        header = server.receive_header()
        sent.append((header.kind, bytes(server.receive_bytes(header.length))))
        own = ring.from_bytes(sent[-1][1], (MASKED_PLAN.opened_words(index),))
        wanted = own if opened is None or index != 2 else torch.full_like(own, opened)
        server.send(Kind.OPENING, ring.to_bytes(wanted - own), index)
    thread.join(SECONDS)
    return sent + list(frames(server)), errors


@pytest.mark.parametrize("role", Role)
def test_a_job_of_the_masked_engine_from_start_to_end(role):
    sent, errors = masked_run(role)
    assert errors == []
    assert [kind for kind, _ in sent] == [Kind.OPENING] * 3 + [Kind.STATS, Kind.RESULT]
    assert [len(content) // 8 for _, content in sent[:3]] == [MASKED_PLAN.opened_words(index) for index in range(3)]
    stats = pb.WorkerStats.FromString(sent[3][1])
    assert (stats.rounds, stats.sent_bytes, stats.flags) == (3, MASKED_PLAN.sent_bytes, 0)
    assert [message.sent_bytes // 8 for message in stats.messages] == [MASKED_PLAN.opened_words(index) for index in range(3)]
    assert sum(m.arithmetic_seconds + m.waiting_seconds for m in stats.messages) <= stats.online_seconds
    assert len(sent[4][1]) == 72 * 8


ZONE = 1 << items_of(MASKED_PLAN)["g"].magnitude_bits


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    ("opened", "flags"),
    [(2**63 - 1, 1), (2**63 - ZONE, 1), (2**63 - ZONE - 1, 0), (-(2**63), 1), (-(2**63) + ZONE - 1, 1), (-(2**63) + ZONE, 0)],
)
def test_a_worker_with_a_flag_sends_no_share_and_says_how_many_wires(role, opened, flags):
    sent, errors = masked_run(role, opened)
    assert errors == []
    assert [kind for kind, _ in sent[3:]] == [Kind.STATS] + [Kind.RESULT] * (not flags)
    assert pb.WorkerStats.FromString(sent[3][1]).flags == flags
