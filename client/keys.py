"""The hospital's secret keys in files: the noise master key, and the Ed25519 key that signs grants.

Both are made once and never overwritten. The noise master key is 32 bytes in hex: every packed object needs it, or the
keys derived from it (RFC 5869), for ever. Ed25519: RFC 8032.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.files import create_private, read_private, replacing
from protocols.errors import ConfigurationError
from protocols.packing import NoiseKeys
from protocols.prg import KEY_BYTES, fresh_key
from protocols.unpicklable import Unpicklable

NOISE_KEY: Final = "the noise key"
SIGNING_KEY: Final = "the signing key"


@dataclass(frozen=True, eq=False)
class MasterKey(Unpicklable):
    """The hospital's noise master key. Held by the client; the edge gets the keys of single objects."""

    value: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.value) != KEY_BYTES:
            raise ConfigurationError(f"a noise master key has {KEY_BYTES} bytes, not {len(self.value)}")

    def for_object(self, nonce: bytes) -> NoiseKeys:
        """The keys of one object."""
        return NoiseKeys.derive(self.value, nonce)


@dataclass(frozen=True, eq=False)
class SigningKey(Unpicklable):
    """The key with which the hospital signs grants. Held by the client."""

    value: Ed25519PrivateKey = field(repr=False)

    @property
    def public_pem(self) -> bytes:
        """What the servers verify grants with."""
        return self.value.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def create_noise_key(path: Path) -> MasterKey:
    """Make a noise master key file of mode 0600. Run by whoever provisions. Raises ConfigurationError: the file exists."""
    key = MasterKey(fresh_key())
    create_private(path, key.value.hex().encode() + b"\n")
    return key


def read_noise_key(path: Path) -> MasterKey:
    """Read a noise master key. Run by the client. Raises ConfigurationError: unreadable, open to others, malformed."""
    text = read_private(path, NOISE_KEY).strip()
    try:
        return MasterKey(bytes.fromhex(text.decode("ascii")))
    except (ValueError, ConfigurationError) as error:
        # The content is not quoted: it may be a key of another kind.
        raise ConfigurationError(f"{NOISE_KEY} {path} is not {2 * KEY_BYTES} hex digits") from error


def create_signing_key(path: Path, public_path: Path) -> SigningKey:
    """Make an Ed25519 key file of mode 0600 (PEM, PKCS 8), and the public key beside it. Run by whoever provisions.

    Raises ConfigurationError: the private key's file exists.
    """
    key = SigningKey(Ed25519PrivateKey.generate())
    pem = key.value.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    create_private(path, pem)
    with replacing(public_path) as file:
        file.write(key.public_pem)
    return key


def read_signing_key(path: Path) -> SigningKey:
    """Read the signing key. Run by the client. Raises ConfigurationError: unreadable, open to others, not Ed25519."""
    pem = read_private(path, SIGNING_KEY)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{SIGNING_KEY} {path} is not an unencrypted PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{SIGNING_KEY} {path} is not an Ed25519 key; `darkroom provision` makes one")
    return SigningKey(key)
