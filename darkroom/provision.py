"""Identities, keys and folders of one installation: each role's secrets in its own folder.

Every identity has a self-signed certificate that cannot sign others; peers pin it (`proto.transport`), so there is no
authority. A role's folder holds its own private key and the public certificates that it needs, and nothing else that is
secret: it can be moved to that role's machine as it is. Each operator can also make its own folder on its own machine, and
take its peers' certificates afterwards (`darkroom.acceptance`). What exists is kept; only expired certificates are renewed.
Source: RFC 5280 (certificates), RFC 6125 (names); P-256 because gRPC's TLS has no Ed25519.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from client.files import create_private, read_private, replacing
from client.keys import create_noise_key, create_signing_key, read_signing_key
from protocols.errors import ConfigurationError

VALIDITY: Final = timedelta(days=398)  # what browsers allow at most: long enough for a year's rota
CLOCK_SKEW: Final = timedelta(minutes=5)  # between the machines of one installation
FOLDER_MODE: Final = 0o700

# Identity: its folder, and whose certificates it pins.
FOLDERS: Final = {
    "dealer": "dealer",
    "server-a": "server-a",
    "server-b": "server-b",
    "client": "hospital/client",
    "edge": "hospital/edge",
    "model-owner": "model-owner",
}
ROLES: Final = {
    "dealer": ("dealer",),
    "server-a": ("server-a",),
    "server-b": ("server-b",),
    "hospital": ("client", "edge"),
    "model-owner": ("model-owner",),
}
KNOWS: Final = {
    "dealer": ("server-a", "server-b"),
    "server-a": ("server-b", "dealer", "client", "edge", "model-owner"),
    "server-b": ("server-a", "dealer", "client", "edge", "model-owner"),
    "client": ("server-a", "server-b"),
    "edge": ("server-a", "server-b"),
    "model-owner": ("server-a", "server-b"),
}
VERIFIES_GRANTS: Final = ("server-a", "server-b")


@dataclass(frozen=True)
class Site:
    """The folders of all roles under one root. Paths only, no secrets."""

    root: Path

    def folder(self, identity: str) -> Path:
        return self.root / FOLDERS[identity]

    def private_key(self, identity: str) -> Path:
        return self.folder(identity) / f"{identity}.key"

    def certificate(self, identity: str, *, held_by: str) -> Path:
        """The copy of an identity's certificate that `held_by` pins (or shows, where it is its own)."""
        return self.folder(held_by) / "certs" / f"{identity}.crt"

    def grant_key(self, held_by: str) -> Path:
        """The public half of the signing key."""
        return self.folder(held_by) / "certs" / "grant.pub"

    @property
    def noise_key(self) -> Path:
        return self.folder("client") / "noise.key"

    @property
    def signing_key(self) -> Path:
        return self.folder("client") / "signing.key"

    @property
    def objects(self) -> Path:
        """The hospital's records of what it stored; shared by client and edge."""
        return self.root / "hospital" / "objects"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


def provision(
    root: Path,
    *,
    roles: Iterable[str] = tuple(ROLES),
    hosts: Mapping[str, Sequence[str]] | None = None,
    renew: bool = False,
    now: datetime | None = None,
) -> Site:
    """Make every folder, identity and key of these roles that is missing. Run by whoever installs Darkroom.

    hosts: by identity, further names and addresses for a certificate that is made now. renew: make new certificates, under the
    same keys, before the old ones expire. now: the present unless a test says otherwise. Raises ConfigurationError: a folder or
    file cannot be made or read.
    """
    site = Site(root.absolute())
    roles = tuple(roles)
    identities = [identity for role in roles for identity in ROLES[role]]
    folders = [site.folder(identity) / "certs" for identity in identities]
    folders += [site.objects] if "hospital" in roles else []
    folders += [site.logs] if set(roles) == set(ROLES) else []
    for folder in folders:
        _make_folder(folder, site.root)
    for identity in identities:
        names = () if hosts is None else hosts.get(identity, ())
        _provision_identity(site, identity, names, renew=renew, now=datetime.now(UTC) if now is None else now)
    for identity in identities:
        for peer in KNOWS[identity]:
            if peer in identities:
                _copy(site.certificate(peer, held_by=peer), site.certificate(peer, held_by=identity))
    if "hospital" in roles:
        _provision_keys(site)
        for holder in VERIFIES_GRANTS:
            if holder in identities:
                _copy(site.grant_key("client"), site.grant_key(holder))
    return site


def _provision_keys(site: Site) -> None:
    """The hospital's noise key, and the pair that signs grants."""
    if not site.noise_key.exists():
        create_noise_key(site.noise_key)
    if not site.signing_key.exists():
        create_signing_key(site.signing_key, site.grant_key("client"))
    write_public(site.grant_key("client"), read_signing_key(site.signing_key).public_pem)


def certificate_for(identity: str, key: ec.EllipticCurvePrivateKey, now: datetime, hosts: Iterable[str] = ()) -> bytes:
    """A self-signed certificate (PEM) for both ends of a TLS connection; its first DNS name is the identity's name.

    hosts: further names and addresses, for people and for other programs: our own connections compare the whole certificate,
    so a party may move to another address under the same one. Raises ConfigurationError: a host that cannot stand there.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(identity, hosts)), critical=False)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _alternative_names(identity: str, hosts: Iterable[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(identity)]
    for host in hosts:
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            try:
                name = x509.DNSName(host)
            except ValueError as error:
                raise ConfigurationError(f"{host!r} cannot stand in a certificate: write it in ASCII (xn--...)") from error
        if name not in names:
            names.append(name)
    return names


def _provision_identity(site: Site, identity: str, hosts: Iterable[str], *, renew: bool, now: datetime) -> None:
    path = site.private_key(identity)
    fresh = not path.exists()
    if fresh:
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        create_private(path, ec.generate_private_key(ec.SECP256R1()).private_bytes(*form))
    certificate = site.certificate(identity, held_by=identity)
    if certificate.exists() and not fresh and not renew and not _expired(certificate, now):
        return
    try:
        key = serialization.load_pem_private_key(read_private(path, f"the private key of {identity}"), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} is not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{path} is not an elliptic-curve key; move it away and run this again")
    write_public(certificate, certificate_for(identity, key, now, hosts))


def _expired(path: Path, now: datetime) -> bool:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc <= now
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is not a readable PEM certificate: {error}") from error


def _make_folder(folder: Path, root: Path) -> None:
    """Make a folder and its parents up to the root, all closed to others; one that exists keeps its mode."""
    missing = [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        for path in reversed(missing):
            path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {folder}: {error.strerror or error}") from error


def _copy(source: Path, target: Path) -> None:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror or error}") from error
    write_public(target, content)


def write_public(path: Path, content: bytes) -> None:
    """Write a public file, unless it says the same already."""
    if path.exists() and path.read_bytes() == content:
        return
    with replacing(path) as file:
        file.write(content)
