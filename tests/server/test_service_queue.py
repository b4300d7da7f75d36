"""Sessions that wait at a server, in line or prepared: their order, what they hold, are told, and leave behind. No sockets."""

import re
import threading

import grpc
import pytest

from proto import darkroom_pb2 as pb
from proto.status import RETRY_KEY
from protocols.identifiers import Role, SessionId
from server import service as service_module
from server.config import ServerConfig
from server.peer_channel import PeerChannel
from server.service import ServerService
from tests.server import held_sessions
from tests.server.fake_workers import FakeWorkers
from tests.server.held_sessions import SECONDS, Call, sample
from tests.server.test_service import HOSPITAL, ByName, Context, Identity, Refused, request, store

peer, service = held_sessions.peer, held_sessions.service
evaluations, full = held_sessions.evaluations, held_sessions.full


def test_sessions_are_evaluated_in_the_order_in_which_they_came(service, evaluations, full):
    for _ in full:
        evaluations.release.release()
    assert [call.ends().header.push_id for call in full] == ["5" * 32] * len(full)
    assert evaluations.order == [call.session for call in full]


def test_the_stated_peak_is_that_of_worker_nursery_and_server(service, evaluations):
    evaluations.release.release()
    peak = Call(service, 1).ends().header.cost.peak_rss_bytes
    assert 1 << 20 < peak - 3 * (1 << 50) < 1 << 50


def test_beyond_the_queue_busy_says_when_and_uses_no_session_up(service, evaluations, full):
    refused = Call(service, 9).ends()
    assert refused.error.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert re.search(r"server A is busy: 3 sessions .*; try again in about \d+ s", str(refused.error))
    assert int(refused.context.trailing[RETRY_KEY]) > 0
    assert refused.stages == []
    assert SessionId(refused.session) not in service._sessions
    for _ in range(len(full) + 1):
        evaluations.release.release()
    for call in full:
        assert call.ends().error is None
    assert Call(service, 9).ends().error is None
    assert sample(service, "darkroom_busy_refusals_total") == 1


def test_an_edge_that_goes_while_it_waits_makes_room_at_once(service, evaluations, full):
    full[1].cancel()
    full[1].ends()
    full[2].reaches("waiting: 1 ahead")
    late = Call(service, 9)
    late.reaches("waiting: 2 ahead")
    assert sample(service, "darkroom_calls_total", call="Denoise", outcome="cancelled") == 1
    for _ in range(3):
        evaluations.release.release()
    assert [call.ends().error for call in (full[0], full[2], late)] == [None] * 3
    assert evaluations.order == [full[0].session, full[2].session, late.session]


def test_a_turn_outlives_its_call_until_the_worker_has_ended_whatever_becomes_of_the_generator(service, evaluations):
    """GRPC may leave the generator of a cancelled call suspended, as this test does."""
    workers = evaluations.workers = service._workers
    workers.behaviour["clings"] = True
    context = Context("edge")
    holder = service.Denoise(request(session_id="1" * 32), context)
    assert [next(holder).stage for _ in range(2)] == ["waiting for server B", "evaluating"]
    following = Call(service, 2)
    following.reaches("waiting: 1 ahead")
    for callback in context.callbacks:
        callback()  # does not wait: gRPC has one thread for all of its events
    assert not following.begins_within(0.2)
    assert service._turns.busy
    assert evaluations.order == ["1" * 32]
    evaluations.workers = None
    workers.taken[0].gone.set()
    following.reaches("evaluating")
    evaluations.release.release()
    assert following.ends().header is not None
    holder.close()


def test_a_call_that_was_cancelled_before_it_was_looked_at_takes_no_turn(service, evaluations):
    context = Context("edge")
    context.add_callback = lambda callback: False  # as gRPC answers once a call is over
    with pytest.raises(Refused, match="cancelled"):
        list(service.Denoise(request(), context))
    assert evaluations.order == []
    assert not service._turns.busy
    assert service.wait_idle(0)


def test_a_session_holds_no_share_while_it_waits_in_line(service, evaluations, full, monkeypatch):
    reads = []
    read = service._objects.read
    monkeypatch.setattr(service._objects, "read", lambda name: reads.append(name) or read(name))
    assert len(evaluations.shares) == 2  # one of them is prepared
    evaluations.release.release()
    full[1].reaches("evaluating")
    evaluations.release.release()
    full[2].reaches("evaluating")
    assert len(reads) == 1
    assert evaluations.shares[-1] == bytes(32)


def test_an_object_that_is_deleted_or_replaced_while_its_session_waits(service, evaluations, full):
    service.Delete(pb.DeleteRequest(object_id="a" * 32), Context("client"))
    for _ in full[:2]:
        evaluations.release.release()
    assert full[1].ends().header is not None  # it was prepared: an evaluation that has begun goes on
    assert full[2].ends().error.status is grpc.StatusCode.NOT_FOUND
    store(service, Role.A)
    calls = [Call(service, 7)]
    calls[0].reaches("evaluating")
    for number in (1, 2):
        calls.append(Call(service, 7 + number))
        calls[-1].reaches(f"waiting: {number} ahead")
    service.Delete(pb.DeleteRequest(object_id="a" * 32), Context("client"))
    store(service, Role.A, packing=pb.PACKING_BLIND)
    evaluations.release.release()
    assert "was replaced while the session waited" in str(calls[2].ends().error)


def test_draining_finishes_what_is_evaluated_or_prepared_and_sends_away_who_waits_in_line(service, evaluations, full):
    service.drain()
    for waiting in full[2:]:
        error = waiting.ends().error
        assert error.status is grpc.StatusCode.ABORTED
        assert "server A is shutting down, and nothing was begun" in str(error)
        assert int(waiting.context.trailing[RETRY_KEY]) > 0
    assert not service.wait_idle(0)
    late = Call(service, 9).ends()
    assert late.error.status is grpc.StatusCode.ABORTED
    with pytest.raises(Refused, match="shutting down"):
        store(service, Role.A, object_id="b" * 32)
    service.Delete(pb.DeleteRequest(object_id="a" * 32), Context("client"))  # deleting is never refused
    for call in full[:2]:
        evaluations.release.release()
        assert call.ends().header is not None
    assert service.wait_idle(SECONDS)
    assert evaluations.order == [full[0].session, full[1].session]


def test_a_model_is_masked_after_the_evaluation_under_way_and_before_the_next_session_is_prepared(
    service, evaluations, monkeypatch
):
    """Else a repetition could mask the older upload anew, or a prepared session hold it."""
    running, masking, go = Call(service, 1), threading.Event(), threading.Event()
    running.reaches("evaluating")

    def lead_masking(*_):
        masking.set()
        assert go.wait(SECONDS)

    monkeypatch.setattr(service._evaluator, "lead_masking", lead_masking)

    def push():
        with service._turns.enter() as place:
            service._mask(PeerChannel(Role.B, boot="b" * 32), "9" * 32, lambda: None, place)

    pushing = threading.Thread(target=push, daemon=True)
    pushing.start()
    while service._turns.waiting < 1 or service._turns._preparing is None:
        assert pushing.is_alive()
    following = Call(service, 2)
    following.reaches("waiting: 2 ahead")
    assert not masking.is_set()
    evaluations.release.release()
    assert masking.wait(SECONDS)
    following.reaches("waiting: 1 ahead")
    assert len(evaluations.shares) == 1
    go.set()
    following.reaches("evaluating")
    pushing.join(SECONDS)
    evaluations.release.release()
    assert following.ends().header is not None


def test_what_a_prepared_session_waits_is_no_part_of_its_evaluation(service, evaluations, monkeypatch):
    """By a clock that the test moves on."""
    now = [1000.0]
    monkeypatch.setattr(service_module, "monotonic", lambda: now[0])

    def lead(*args):
        yield "dealing"
        return (yield from evaluations(*args))

    monkeypatch.setattr(service._evaluator, "lead", lead)
    calls = [Call(service, 1), None]
    calls[0].reaches("evaluating")
    calls[1] = Call(service, 2)
    calls[1].reaches("waiting: 1 ahead")
    now[0] += 100.0
    evaluations.release.release()
    calls[0].ends()
    calls[1].reaches("evaluating")
    now[0] += 3.0
    evaluations.release.release()
    calls[1].ends()
    assert sample(service, "darkroom_wait_seconds_sum") == 100.0
    assert sample(service, "darkroom_evaluation_seconds_sum") == 103.0  # the first's 100, of which the second was prepared


def test_a_slow_download_holds_no_turn(service, evaluations):
    first = service.Denoise(request(session_id="1" * 32), Context("edge"))
    assert [next(first).stage for _ in range(2)] == ["waiting for server B", "evaluating"]
    evaluations.release.release()
    assert next(first).header.push_id == "5" * 32  # and the rest is not read
    second = Call(service, 2)
    second.reaches("evaluating")
    evaluations.release.release()
    assert second.ends().header is not None
    assert not service.wait_idle(0)
    list(first)
    assert service.wait_idle(0)


def test_a_stopping_server_b_tells_who_waits_for_an_order_that_nothing_was_begun(tmp_path, peer, monkeypatch):
    identity = Identity(peer.certificate, b"no key: no handshake is made here")
    service = ServerService(ServerConfig(Role.B, identity, tmp_path, HOSPITAL.public_key(), peer, peer), ByName(), FakeWorkers())
    monkeypatch.setattr(service._models, "description", lambda name: None)
    store(service, Role.B)
    broken_off = threading.Event()
    channel = PeerChannel(Role.A)
    channel.attach(silence(broken_off), cancel=broken_off.set)
    monkeypatch.setattr(service, "_dial", lambda session: channel)
    call = Call(service, 1)
    call.reaches("waiting for server A")
    service.drain()
    error = call.ends().error
    assert error.status is grpc.StatusCode.ABORTED
    assert "server B is shutting down, and nothing was begun" in str(error)
    assert int(call.context.trailing[RETRY_KEY]) > 0
    assert service.wait_idle(0)


def silence(ended):
    """A's half of the link: says nothing until the call is broken off."""
    assert ended.wait(SECONDS)
    yield from ()
