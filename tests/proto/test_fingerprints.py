"""Fingerprints as people write them down."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from proto.fingerprints import fingerprint_of, parse_fingerprint, readable
from proto.transport import fingerprint
from protocols.errors import BadInputError, ConfigurationError
from tests.proto.test_transport import EDGE

# RFC 8032, test 1: the public key of this private key; DER and SHA-256 by `openssl pkey -pubin -outform DER | sha256sum`.
PRIVATE = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")


@given(st.binary(min_size=32, max_size=32), st.sampled_from([" ", ":", "-", "\n", "  "]))
def test_what_is_read_out_is_what_is_parsed(digest: bytes, separator: str) -> None:
    text = readable(digest.hex())
    assert len(text.split()) == 16
    assert parse_fingerprint(text.replace(" ", separator).upper()) == digest.hex()


@pytest.mark.parametrize("text", ["", "ab", "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 31 + "a."])
def test_a_part_is_not_enough(text: str) -> None:
    with pytest.raises(BadInputError, match="all 64 hex digits"):
        parse_fingerprint(text)


def test_certificates_and_public_keys() -> None:
    assert fingerprint_of(EDGE) == fingerprint(EDGE)
    public = Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert fingerprint_of(pem) == "06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9"
    with pytest.raises(ConfigurationError):
        fingerprint_of(b"-----BEGIN PUBLIC KEY-----\n")
