"""Fingerprints as people compare them: over the telephone, or on paper, never over the line that they are to protect.

SHA-256 of the DER form, 64 hex digits in 16 groups of four. All 64 are compared: a part could be met by trying keys.
"""

import hashlib
import re
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from proto.transport import fingerprint
from protocols.errors import BadInputError, ConfigurationError

GROUP: Final = 4
DIGITS: Final = 64
_SEPARATORS: Final = re.compile(r"[\s:-]+")


def readable(digest: str) -> str:
    """A digest in groups."""
    return " ".join(digest[start : start + GROUP] for start in range(0, len(digest), GROUP))


def parse_fingerprint(text: str) -> str:
    """64 hex digits from what somebody wrote down; spaces, colons and dashes do not count. Raises BadInputError."""
    digits = _SEPARATORS.sub("", text).lower()
    if len(digits) != DIGITS or set(digits) - set("0123456789abcdef"):
        raise BadInputError(f"{text[:100]!r} is no fingerprint: give all {DIGITS} hex digits that its owner reads out")
    return digits


def public_key_fingerprint(public_pem: bytes) -> str:
    """SHA-256 of a DER public key (of grants), in hex. Raises ConfigurationError."""
    try:
        key = load_pem_public_key(public_pem)
    except ValueError as error:
        raise ConfigurationError(f"not a PEM public key: {error}") from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def fingerprint_of(pem: bytes) -> str:
    """Of a certificate or a public key, PEM. Raises ConfigurationError."""
    return public_key_fingerprint(pem) if b"BEGIN PUBLIC KEY" in pem else fingerprint(pem)
