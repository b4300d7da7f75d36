from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.grants import issue_grant, parse_window
from client.keys import SigningKey
from protocols.errors import BadInputError
from protocols.identifiers import ObjectId

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OBJECT = ObjectId("a" * 32)


def decode(grant, key=KEY):
    return jwt.decode(grant, key.value.public_key(), algorithms=["EdDSA"], audience="darkroom", issuer="hospital")


@pytest.mark.parametrize(
    ("text", "window"),
    [("90s", timedelta(seconds=90)), ("30m", timedelta(minutes=30)), (" 24h ", timedelta(hours=24)), ("7d", timedelta(days=7))],
)
def test_windows(text, window):
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "-1h", "1.5h", "1h30m", "999999999d", "٣h", "9" * 4000 + "h", "1 h", "1H"])
def test_other_windows_are_refused(text):
    with pytest.raises(BadInputError, match="window") as caught:
        parse_window(text)
    assert len(str(caught.value)) < 200


def test_grant_names_object_edge_and_window():
    now = datetime.now(UTC).replace(microsecond=0)
    claims = decode(issue_grant(KEY, OBJECT, "ward7", timedelta(hours=1), now=now))
    assert claims["obj"] == str(OBJECT)
    assert claims["sub"] == "ward7"
    assert claims["exp"] == int((now + timedelta(hours=1)).timestamp())
    assert claims["nbf"] == claims["iat"] == int(now.timestamp()) - 60


def test_a_closed_window_and_another_hospital_do_not_verify():
    late = issue_grant(KEY, OBJECT, "edge", timedelta(seconds=1), now=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(jwt.ExpiredSignatureError):
        decode(late)
    other = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with pytest.raises(jwt.InvalidSignatureError):
        decode(issue_grant(other, OBJECT, "edge", timedelta(hours=1)))
