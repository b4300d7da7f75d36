"""Grants as a server sees them: what the hospital signed for this edge and object, within the window, and nothing else."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.grants import CLOCK_SKEW, issue_grant
from client.keys import SigningKey
from protocols.errors import AccessDenied
from protocols.identifiers import ObjectId
from server.grants import verify_grant

HOSPITAL = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ANOTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
OBJECT, OTHER_OBJECT = ObjectId("a" * 32), ObjectId("b" * 32)
HOUR = timedelta(hours=1)


def grant(*, key=HOSPITAL, object_id=OBJECT, edge="edge", window=HOUR, now=None):
    return issue_grant(SigningKey(key), object_id, edge, window, now=now)


def verify(text, *, object_id=OBJECT, caller="edge"):
    verify_grant(text, HOSPITAL.public_key(), object_id=object_id, caller=caller)


def claims(**changes):
    now = datetime.now(UTC)
    complete = {"aud": "darkroom", "sub": "edge", "obj": str(OBJECT), "nbf": now - HOUR, "exp": now + HOUR}
    return {name: value for name, value in (complete | changes).items() if value is not None}


def signed(content, key=HOSPITAL, algorithm="EdDSA"):
    return jwt.encode(content, key, algorithm=algorithm)


def test_the_grant_that_the_client_issues_is_accepted():
    verify(grant())
    verify(signed(claims()))  # the base of the refusals below


def test_at_the_edges_of_the_window():
    now = datetime.now(UTC)
    verify(grant(now=now - HOUR + timedelta(seconds=30)))
    verify(grant(now=now + CLOCK_SKEW - timedelta(seconds=30)))
    with pytest.raises(AccessDenied, match="has closed"):
        verify(grant(now=now - HOUR - timedelta(seconds=1)))
    with pytest.raises(AccessDenied, match="not opened yet"):
        verify(grant(now=now + CLOCK_SKEW + timedelta(seconds=30)))


REFUSED = {
    "another object": (lambda: grant(object_id=OTHER_OBJECT), "for another object"),
    "another edge": (lambda: grant(edge="edge-2"), "is for 'edge-2', not for 'edge'"),
    "the client itself": (lambda: grant(edge="client"), "not for 'edge'"),
    "another hospital": (lambda: grant(key=ANOTHER), "not valid"),
    "no object": (lambda: signed(claims(obj=None)), "for another object"),
    "a list of objects": (lambda: signed(claims(obj=[str(OBJECT)])), "for another object"),
    "no edge": (lambda: signed(claims(sub=None)), "not valid"),
    "no end": (lambda: signed(claims(exp=None)), "not valid"),
    "no beginning": (lambda: signed(claims(nbf=None)), "not valid"),
    "no audience": (lambda: signed(claims(aud=None)), "not valid"),
    "another audience": (lambda: signed(claims(aud="elsewhere")), "not valid"),
    "an end that is no time": (lambda: signed(claims(exp="never")), "not valid"),
    "unsigned": (lambda: signed(claims(), None, "none"), "not valid"),
    "signed with the public key as a password": (
        lambda: signed(claims(), HOSPITAL.public_key().public_bytes_raw(), "HS256"),
        "not valid",
    ),
    "signature cut off": (lambda: grant().rsplit(".", 1)[0] + ".", "not valid"),
    "nothing": (lambda: "", "not valid"),
    "no token": (lambda: "a.b.c", "not valid"),
    "a long text": (lambda: "a" * 5000, "too long"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(AccessDenied, match=message):
        verify(make())


@pytest.mark.parametrize("part", [0, 1, 2])
def test_every_part_is_bound_by_the_signature(part):
    pieces = grant().split(".")
    for position in range(0, len(pieces[part]) - 1, 7):
        changed = list(pieces)
        letter = "A" if changed[part][position] != "A" else "B"
        changed[part] = changed[part][:position] + letter + changed[part][position + 1 :]
        with pytest.raises(AccessDenied):
            verify(".".join(changed))


def test_a_grant_is_for_the_object_and_caller_at_hand():
    with pytest.raises(AccessDenied, match="for another object"):
        verify(grant(), object_id=OTHER_OBJECT)
    with pytest.raises(AccessDenied, match="not for 'client'"):
        verify(grant(), caller="client")


def test_a_refusal_does_not_repeat_the_grant():
    text = grant(key=ANOTHER)
    with pytest.raises(AccessDenied) as caught:
        verify(text)
    assert not any(piece in str(caught.value) for piece in text.split("."))
