"""Grants: the hospital's signed permission for one edge identity to open one object during one window.

A JSON Web Token (RFC 7519) signed with Ed25519 (RFC 8037). Both servers verify it by themselves, so neither has to
believe the other. Assumes clocks that agree within a minute.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import jwt

from client.keys import SigningKey
from protocols.errors import BadInputError
from protocols.identifiers import ObjectId

ISSUER: Final = "hospital"
AUDIENCE: Final = "darkroom"
ALGORITHM: Final = "EdDSA"
CLOCK_SKEW: Final = timedelta(minutes=1)  # a server whose clock is a little behind accepts a fresh grant
MAX_WINDOW: Final = timedelta(days=366)  # a longer one is a mistyped unit
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_WINDOW: Final = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)


def parse_window(text: str) -> timedelta:
    """Read "90s", "30m", "24h" or "7d". Raises BadInputError: another form, nothing, or more than 366 days."""
    match = _WINDOW.fullmatch(text.strip())
    window = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta(0)
    if not timedelta(0) < window <= MAX_WINDOW:
        raise BadInputError(f"a window is a number and s, m, h or d, such as 24h, and at most 366d; not {text[:40]!r}")
    return window


def issue_grant(
    signing_key: SigningKey, object_id: ObjectId, edge_name: str, window: timedelta, *, now: datetime | None = None
) -> str:
    """Permit the edge identity `edge_name` to open `object_id` until `now` + `window`. Run by the client.

    now: the present unless a test says otherwise. The grant is a bearer token of little worth: the servers also
    check that the caller shows the edge's certificate.
    """
    now = datetime.now(UTC) if now is None else now
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": edge_name,
        "obj": str(object_id),
        "iat": now - CLOCK_SKEW,
        "nbf": now - CLOCK_SKEW,
        "exp": now + window,
    }
    return jwt.encode(claims, signing_key.value, algorithm=ALGORITHM)
