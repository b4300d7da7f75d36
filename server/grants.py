"""Access grants: the hospital's signed word that one edge may open one object within a window.

A grant is a JWT (RFC 7519) signed with Ed25519; it names the object, the edge's identity and the window. It is checked at
both servers, each on its own clock. A grant is no key: without the object's noise keys it opens noise.
"""

from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocols.errors import AccessDenied
from protocols.identifiers import ObjectId

AUDIENCE: Final = "darkroom"
MAX_GRANT_CHARACTERS: Final = 4096


def verify_grant(grant: str, key: Ed25519PublicKey, *, object_id: ObjectId, caller: str) -> None:
    """Raises AccessDenied, saying why."""
    if len(grant) > MAX_GRANT_CHARACTERS:
        raise AccessDenied("the access grant is too long to be one")
    try:
        claims = jwt.decode(
            grant, key, algorithms=["EdDSA"], audience=AUDIENCE, options={"require": ["exp", "nbf", "sub", "aud"]}
        )
    except jwt.ExpiredSignatureError as error:
        raise AccessDenied("the access window has closed; ask the hospital for a new grant (darkroom key export)") from error
    except jwt.ImmatureSignatureError as error:
        raise AccessDenied("the access window has not opened yet; check the clocks") from error
    except jwt.InvalidTokenError as error:
        raise AccessDenied(f"the access grant is not valid: {error}") from error
    if claims.get("obj") != str(object_id):
        raise AccessDenied("the access grant is for another object")
    if claims["sub"] != caller:
        raise AccessDenied(f"the access grant is for {claims['sub']!r}, not for {caller!r}")
