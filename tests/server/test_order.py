"""The handshake of A and B: every term that differs is refused by name, and the shared key needs both."""

import dataclasses

import pytest

from proto import darkroom_pb2 as pb
from protocols.errors import RemoteProtocolError
from server.order import TERMS, OrderTerms, check_accept, check_order, make_order, order_digest, shared_key

AGREED = OrderTerms(
    kind=pb.PeerOrder.KIND_EVALUATE,
    session_id="1" * 32,
    model="base",
    upload_id="2" * 32,
    object_id="3" * 32,
    plan_digest=bytes(range(32)),
    boot_a="4" * 32,
    boot_b="5" * 32,
    tile=6,
)
A_PART, B_PART = bytes(32), bytes([255] * 32)


def order(terms=AGREED, **changes):
    values = {"push_id": "6" * 32, "material_id": "7" * 32, "contribution": A_PART} | changes
    return make_order(terms, **values)


def accept(of=None, **changes):
    values = {"order_digest": order_digest(of or order()), "contribution": B_PART} | changes
    return pb.PeerAccept(**values)


def changed(value):
    if isinstance(value, int):
        return value - 1
    return value[:-1] + (b"\xff" if isinstance(value, bytes) else "f")


def test_agreement():
    check_order(order(), AGREED)
    check_accept(accept(), order())


@pytest.mark.parametrize("term", TERMS)
def test_every_term_that_differs_is_refused_by_name(term):
    theirs = dataclasses.replace(AGREED, **{term: changed(getattr(AGREED, term))})
    with pytest.raises(RemoteProtocolError, match=f"disagree on {term}: A says"):
        check_order(order(theirs), AGREED)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_that_is_left_out_is_refused(term):
    received = order()
    received.ClearField(term)
    with pytest.raises(RemoteProtocolError, match=f"disagree on {term}"):
        check_order(received, AGREED)


def test_the_terms_are_all_that_an_order_says_but_what_a_alone_decides():
    fields = {field.name for field in pb.PeerOrder.DESCRIPTOR.fields}
    assert set(TERMS) | {"push_id", "material_id", "contribution"} == fields


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_contribution_of_another_length_is_refused(length):
    with pytest.raises(RemoteProtocolError, match="A's contribution"):
        check_order(order(contribution=bytes(length)), AGREED)
    with pytest.raises(RemoteProtocolError, match="B's contribution"):
        check_accept(accept(contribution=bytes(length)), order())


@pytest.mark.parametrize("field", [field.name for field in pb.PeerOrder.DESCRIPTOR.fields])
def test_an_accept_for_another_order_is_refused(field):
    """Whatever field was changed on the way to B: push, material and contribution too."""
    tampered = order()
    setattr(tampered, field, changed(getattr(tampered, field)))
    with pytest.raises(RemoteProtocolError, match="accepted another order"):
        check_accept(accept(of=tampered), order())


def test_both_derive_one_key():
    sent = order()
    received = pb.PeerOrder.FromString(sent.SerializeToString())
    assert shared_key(sent, accept(of=sent)) == shared_key(received, accept(of=received))


def test_the_key_differs_with_either_contribution_and_with_the_order():
    other_material = order(material_id="8" * 32)
    keys = [
        shared_key(order(), accept()),
        shared_key(order(contribution=bytes(31) + b"\1"), accept()),
        shared_key(order(), accept(contribution=bytes(32))),
        shared_key(other_material, accept(of=other_material)),
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {32}


def test_contributions_do_not_cancel():
    """A key made by XOR would be known to an outsider who can make B repeat A's contribution."""
    assert shared_key(order(contribution=B_PART), accept(contribution=B_PART)) != shared_key(order(), accept(contribution=A_PART))


def test_key_vector():
    # computed with HMAC-SHA256 (RFC 5869) over the concatenation, not with protocols.prg
    made = shared_key(pb.PeerOrder(contribution=A_PART), pb.PeerAccept(order_digest=bytes(32), contribution=B_PART))
    assert made.hex() == "1030ee42c0594932afa5456e24690cc1e715ec6e0bdc7f183733dc9ee4307b59"
