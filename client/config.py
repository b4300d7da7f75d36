"""The hospital's configuration: a TOML file that names servers, identities and keys; paths relative to its folder.

`client.toml` holds the storing identity, `edge.toml` the opening one, `hospital.toml` both. Reading the file opens no key:
an identity is read, and its files are checked, when a step needs it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from client.files import read_file, read_private
from client.grants import parse_window
from client.keys import MasterKey, SigningKey, read_noise_key, read_signing_key
from proto.transport import SILENCE_SECONDS, Identity, Peer, checked_silence
from protocols.errors import BadInputError, ConfigurationError
from protocols.identifiers import Role
from protocols.unpicklable import Unpicklable

DEFAULT_WINDOW: Final = "24h"
DEFAULT_EDGE_NAME: Final = "edge"
DEFAULT_OBJECTS: Final = "objects"


@dataclass(frozen=True)
class ServerSection:
    """Where a server listens, and the certificate it must show."""

    address: str  # several: in the order in which they are tried, blanks between
    certificate: Path


@dataclass(frozen=True)
class IdentitySection:
    """The files of one identity."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True)
class ClientSection(IdentitySection):
    """The files of the storing identity."""

    noise_key: Path
    signing_key: Path


_Section = TypeVar("_Section", bound=IdentitySection)


@dataclass(frozen=True, eq=False)
class ClientIdentity(Unpicklable):
    """The storing identity, read and checked."""

    identity: Identity
    noise_key: MasterKey
    signing_key: SigningKey


@dataclass(frozen=True)
class HospitalConfig:
    """One configuration file. Holds paths, no secrets."""

    path: Path
    servers: Mapping[Role, ServerSection]
    client: ClientSection | None
    edge: IdentitySection | None
    model_owner: IdentitySection | None
    objects: Path
    window: timedelta
    edge_name: str
    silence_seconds: float = SILENCE_SECONDS  # a link to a server that is silent for longer is given up

    def peer(self, role: Role) -> Peer:
        """A server and its pinned certificate. Raises ConfigurationError."""
        section = self.servers[role]
        name = f"server {role.value}"
        certificate = read_certificate(section.certificate, f"the certificate of {name}")
        return Peer(name, section.address, certificate, self.silence_seconds)

    def require_client(self) -> ClientIdentity:
        """The storing identity and its keys. Raises ConfigurationError: no [client], or a bad file."""
        section = self._require(self.client, "client", "stores objects", "client.toml or hospital.toml")
        return ClientIdentity(
            read_identity(section, "client"), read_noise_key(section.noise_key), read_signing_key(section.signing_key)
        )

    def require_edge(self) -> Identity:
        """The opening identity. Raises ConfigurationError: no [edge], or a bad file."""
        return read_identity(self._require(self.edge, "edge", "opens objects", "edge.toml or hospital.toml"), "edge")

    def require_model_owner(self) -> Identity:
        """The identity that pushes models. Raises ConfigurationError: no [model_owner], or a bad file."""
        section = self._require(self.model_owner, "model_owner", "pushes models", "the model owner's file")
        return read_identity(section, "model owner")

    def require_any(self) -> Identity:
        """The first identity that the file holds. Raises ConfigurationError: it holds none, or a bad file."""
        for section, owner in self.identities():
            return read_identity(section, owner)
        raise ConfigurationError(f"{self.path} holds no identity: add [client], [edge] or [model_owner]")

    def identities(self) -> list[tuple[IdentitySection, str]]:
        """The identities that the file holds, with their names for messages."""
        named = ((self.model_owner, "model owner"), (self.client, "client"), (self.edge, "edge"))
        return [(section, owner) for section, owner in named if section is not None]

    def with_noise_key(self, path: Path) -> "HospitalConfig":
        """The same with another noise key file (`--key`). Raises ConfigurationError: no [client]."""
        section = self._require(self.client, "client", "stores objects", "client.toml or hospital.toml")
        return replace(self, client=replace(section, noise_key=path))

    def _require(self, section: _Section | None, name: str, does: str, files: str) -> _Section:
        if section is None:
            raise ConfigurationError(f"{self.path} has no [{name}], the identity that {does}: use --config with {files}")
        return section


def load_config(path: Path) -> HospitalConfig:
    """Read a configuration file. Raises ConfigurationError: unreadable, malformed, or an unknown or missing entry."""
    try:
        content = tomllib.loads(read_file(path, "the configuration").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    table = _Table(path, "", content)
    servers = table.table("servers")
    hospital = table.table("hospital", optional=True)
    config = HospitalConfig(
        path=path,
        servers={role: _server(servers.table(role.value.lower())) for role in Role},
        client=_client(table),
        edge=_identity(table, "edge"),
        model_owner=_identity(table, "model_owner"),
        objects=hospital.path("objects", DEFAULT_OBJECTS),
        window=_window(hospital),
        edge_name=hospital.text("edge_name", DEFAULT_EDGE_NAME),
        silence_seconds=checked_silence(hospital.text("silence_seconds", str(SILENCE_SECONDS)), f"{path}: silence_seconds"),
    )
    for used in (hospital, servers, table):
        used.finish()
    return config


def read_identity(section: IdentitySection, owner: str) -> Identity:
    """Read a certificate and its private key. Raises ConfigurationError: unreadable, expired, open to others, no pair."""
    certificate = read_certificate(section.certificate, f"the {owner}'s certificate")
    purpose = f"the {owner}'s private key"
    pem = read_private(section.private_key, purpose)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{purpose} {section.private_key} is not an unencrypted PEM private key") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != x509.load_pem_x509_certificate(certificate).public_key().public_bytes(*form):
        raise ConfigurationError(f"{purpose} {section.private_key} does not belong to {section.certificate}")
    return Identity(certificate, pem)


def read_certificate(path: Path, purpose: str, *, now: datetime | None = None) -> bytes:
    """Read a PEM certificate that is valid now. Raises ConfigurationError: unreadable, malformed, expired, not yet valid."""
    pem = read_file(path, purpose)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ConfigurationError(f"{purpose} {path} is not a PEM certificate: {error}") from error
    now = datetime.now(UTC) if now is None else now
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise ConfigurationError(f"{purpose} {path} expired on {last:%Y-%m-%d %H:%M} UTC: run `darkroom provision` again")
    if now < first:
        raise ConfigurationError(f"{purpose} {path} is valid from {first:%Y-%m-%d %H:%M} UTC on: check this machine's clock")
    return pem


class _Table:
    """A TOML table that knows where it stands, and which of its entries were asked for."""

    def __init__(self, file: Path, name: str, content: dict[str, Any]) -> None:
        self._file, self._name, self._content = file, name, content
        self._seen: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def table(self, key: str, *, optional: bool = False) -> "_Table":
        name = f"{self._name}.{key}" if self._name else key
        self._seen.add(key)
        value = self._content.get(key, {} if optional else None)
        if not isinstance(value, dict):
            raise ConfigurationError(f"{self._file} has no section [{name}]")
        return _Table(self._file, name, value)

    def text(self, key: str, default: str | None = None) -> str:
        self._seen.add(key)
        value = self._content.get(key, default)
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f'{self._file}: [{self._name}] needs {key} = "..."')
        return value

    def path(self, key: str, default: str | None = None) -> Path:
        return self._file.parent / self.text(key, default)

    def finish(self) -> None:
        """Refuse what nobody asked for: a misspelt entry would silently not count."""
        unknown = sorted(self._content.keys() - self._seen)
        if unknown:
            where = f"[{self._name}] has" if self._name else "it has"
            raise ConfigurationError(
                f"{self._file}: {where} the unknown entry {unknown[0]!r}; known: {', '.join(sorted(self._seen))}"
            )


def _server(table: _Table) -> ServerSection:
    section = ServerSection(table.text("address"), table.path("certificate"))
    table.finish()
    return section


def _identity(parent: _Table, key: str) -> IdentitySection | None:
    table = parent.table(key, optional=True)
    if key not in parent:
        return None
    section = IdentitySection(table.path("certificate"), table.path("private_key"))
    table.finish()
    return section


def _client(parent: _Table) -> ClientSection | None:
    table = parent.table("client", optional=True)
    if "client" not in parent:
        return None
    names = ("certificate", "private_key", "noise_key", "signing_key")
    section = ClientSection(*(table.path(name) for name in names))
    table.finish()
    return section


def _window(table: _Table) -> timedelta:
    try:
        return parse_window(table.text("window", DEFAULT_WINDOW))
    except BadInputError as error:
        raise ConfigurationError(f"[hospital] window: {error}") from error
