"""A server's settings, from its TOML file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from proto.party import Settings
from proto.transport import Identity, Peer
from protocols.errors import ConfigurationError
from protocols.identifiers import Role
from protocols.unpicklable import Unpicklable

WAITING: Final = 8  # minutes of waiting at seconds per image; each holds two threads and no memory to speak of
MAX_WAITING: Final = 256


@dataclass(frozen=True, eq=False)
class ServerConfig(Unpicklable):
    """Everything that one server needs to know."""

    role: Role
    identity: Identity = field(repr=False)
    store: Path
    grant_key: Ed25519PublicKey  # the hospital's, which signs access grants
    dealer: Peer
    leader: Peer | None  # server A, as B calls it; None at A
    waiting: int = WAITING  # sessions that may wait beside the one that is evaluated


def server_config(settings: Settings, role: Role) -> ServerConfig:
    """Check and convert. Raises ConfigurationError."""
    configured = settings.text("role")
    if configured != role.value:
        raise ConfigurationError(f"{settings.path} configures server {configured}, but this is server {role.value}")
    name = settings.text("grant_public_key")
    try:
        key = load_pem_public_key(settings.public_file(name))
    except ValueError as error:
        raise ConfigurationError(f"{settings.path}: {name} is no PEM public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{settings.path}: {name} must be an Ed25519 key")
    return ServerConfig(
        role=role,
        identity=settings.identity(),
        store=settings.resolve(settings.text("store")),
        grant_key=key,
        dealer=settings.peer("the dealer", "dealer"),
        leader=settings.peer("server A", "leader") if role is Role.B else None,
        waiting=int(settings.number("queue", "waiting", default=WAITING, low=0, high=MAX_WAITING)),
    )
