"""What server A may send to server B is what is due: anything else, and B refuses with a sentence, and stays up."""

from collections.abc import Callable, Iterator

import grpc
import pytest

from client import acquisition, edge
from client.records import ObjectRecord
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.transport import open_channel
from protocols.identifiers import Role, SessionId
from security.false_server_b import CALL_SECONDS, denoise_request
from security.site_access import identity
from tests.integration.conftest import picture
from tests.integration.failing_site import FailingSite
from tests.integration.false_server_a import Follower, Messages, in_place_of_server_a, opening

MASK, EVALUATE = pb.PeerOrder.KIND_MASK, pb.PeerOrder.KIND_EVALUATE
READY = pb.PeerMessage(ready=pb.PeerReady())


@pytest.fixture
def record(failing: FailingSite) -> Iterator[ObjectRecord]:
    stored = acquisition.store(failing.config, picture(), sigma=0.1)
    yield stored
    acquisition.delete(failing.config, stored.object_id)


def nothing_in_it(b: Follower) -> Messages:
    yield pb.PeerMessage()


def ready_at_once(b: Follower) -> Messages:
    yield READY


def opening_at_once(b: Follower) -> Messages:
    yield opening(0, 32)


def accepts_its_own_order(b: Follower) -> Messages:
    yield pb.PeerMessage(accept=pb.PeerAccept(order_digest=bytes(32), contribution=bytes(32)))


def evaluates_before_masking(b: Follower) -> Messages:
    yield b.order(EVALUATE)


def orders_for_another_session(b: Follower) -> Messages:
    yield b.order(MASK, session_id="3" * 32)


def orders_twice(b: Follower) -> Messages:
    yield from b.masking()
    yield b.order(MASK)


def ready_before_its_masks(b: Follower) -> Messages:
    yield from b.masking()
    yield READY


def a_later_opening_first(b: Follower) -> Messages:
    yield from b.masking()
    yield opening(1, b.masks)


def the_second_piece_first(b: Follower) -> Messages:
    yield from b.masking()
    yield opening(0, b.masks, offset=8)


def a_piece_twice(b: Follower) -> Messages:
    yield from b.masking()
    yield opening(0, b.masks, size=8)
    yield opening(0, b.masks, size=8)


def masks_too_short(b: Follower) -> Messages:
    yield from b.masking()
    yield opening(0, b.masks - 8)


def a_piece_too_long(b: Follower) -> Messages:
    yield from b.masking()
    yield opening(0, b.masks, size=b.masks + 8)


def masks_twice(b: Follower) -> Messages:
    yield from b.masking()
    yield opening(0, b.masks)
    yield opening(0, b.masks)


def opening_before_it_is_ready(b: Follower) -> Messages:
    yield from b.evaluating()
    yield opening(0, b.plan.opened_words(0) * 8)


def ready_twice(b: Follower) -> Messages:
    yield from b.evaluating()
    yield READY
    yield READY


def an_opening_left_out(b: Follower) -> Messages:
    yield from b.evaluating()
    yield READY
    yield opening(1, b.plan.opened_words(1) * 8)


def an_opening_twice(b: Follower) -> Messages:
    yield from b.evaluating()
    yield READY
    yield opening(0, b.plan.opened_words(0) * 8)
    yield opening(0, b.plan.opened_words(0) * 8)


REFUSALS: dict[Callable[[Follower], Messages], str] = {
    nothing_in_it: "sent nothing where order was due",
    ready_at_once: "sent ready where order was due",
    opening_at_once: "sent opening where order was due",
    accepts_its_own_order: "sent accept where order was due",
    evaluates_before_masking: "server A names push '11111111111111111111111111111111', which this server does not hold",
    orders_for_another_session: "servers A and B disagree on session_id",
    orders_twice: "sent order where opening was due",
    ready_before_its_masks: "sent ready where opening was due",
    a_later_opening_first: "of opening 1, where bytes 0.. of",
    the_second_piece_first: "the peer sent bytes 8.. of",
    a_piece_twice: "of opening 0, where bytes 8.. of",
    masks_too_short: "of opening 0, where bytes 0.. of",
    a_piece_too_long: "opening 0 of the peer has a piece of",
    masks_twice: "sent opening where order was due",
    opening_before_it_is_ready: "sent opening where ready was due",
    ready_twice: "sent ready where opening was due",
    an_opening_left_out: "of opening 1, where bytes 0.. of",
    an_opening_twice: "of opening 0, where bytes 0.. of",
}


@pytest.mark.parametrize("misbehave", REFUSALS, ids=lambda each: each.__name__)
def test_server_b_takes_nothing_from_a_but_what_is_due(
    failing: FailingSite, record: ObjectRecord, misbehave: Callable[[Follower], Messages]
) -> None:
    request = denoise_request(record, Role.B, SessionId.fresh(), "tiny")
    with in_place_of_server_a(failing, record, misbehave):
        with open_channel(identity(failing, "edge"), failing.config.peer(Role.B)) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                list(rpc.ServerStub(channel).Denoise(request, timeout=CALL_SECONDS))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION, caught.value.details()
    assert REFUSALS[misbehave] in caught.value.details()
    failing.require_no_session("server-b")


def test_after_all_that_a_good_request_works(failing: FailingSite, record: ObjectRecord) -> None:
    edge.denoise(failing.config, record.object_id, model="tiny")
