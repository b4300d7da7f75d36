"""Taking a peer's certificate, by the fingerprint that its owner read out; and the table of fingerprints to read out.

The fingerprint comes from the owner by a way of its own, by telephone or on paper. What arrived as a file is believed only
if it has that fingerprint; it is then pinned for the roles whose folders are here and that deal with this peer.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from client.files import read_file
from darkroom.provision import FOLDERS, KNOWS, VERIFIES_GRANTS, Site, write_public
from proto.fingerprints import fingerprint_of, parse_fingerprint, readable
from proto.transport import certificate_name
from protocols.errors import ConfigurationError

GRANT: Final = "grant"  # the public half of the hospital's signing key


@dataclass(frozen=True)
class Fingerprint:
    """One certificate or public key of this installation. Public."""

    name: str
    held_by: str
    own: bool  # to be read out to others; else: pinned here, to be compared with what its owner reads out
    path: Path
    fingerprint: str | None  # None: not here yet
    expires: datetime | None

    @property
    def text(self) -> str:
        """For people."""
        return "missing: take it with `darkroom accept`" if self.fingerprint is None else readable(self.fingerprint)


def fingerprints(root: Path) -> list[Fingerprint]:
    """What the roles whose folders are here show and pin, own ones first. Raises ConfigurationError: no role's folder is here."""
    site = Site(root.absolute())
    here = _here(site)
    rows = [_row(identity, identity, site.certificate(identity, held_by=identity), own=True) for identity in here]
    if "client" in here:
        rows.append(_row(GRANT, "client", site.grant_key("client"), own=True))
    for holder in here:
        rows += [_row(peer, holder, site.certificate(peer, held_by=holder), own=False) for peer in KNOWS[holder]]
        if holder in VERIFIES_GRANTS:
            rows.append(_row(GRANT, holder, site.grant_key(holder), own=False))
    return rows


def accept(root: Path, file: Path, stated: str, *, replace: bool = False) -> list[Fingerprint]:
    """Pin a peer's certificate, or the hospital's public key of grants. Run by each operator for each of its peers.

    stated: the fingerprint that the owner read out. replace: in place of another one that is pinned. Raises BadInputError: no
    fingerprint. ConfigurationError: it is another, an authority's, not valid now, nobody's that a role here deals with, or one
    is pinned already.
    """
    expected = parse_fingerprint(stated)
    site = Site(root.absolute())
    here = _here(site)
    pem = read_file(file, "the certificate")
    found = fingerprint_of(pem)
    if found != expected:
        raise ConfigurationError(
            f"{file} is not what its owner read out, so it is not taken:\n  file    {readable(found)}\n"
            f"  stated  {readable(expected)}\n"
            "Ask for the file again, and for the fingerprint by telephone; if they still differ, somebody is in between"
        )
    name = GRANT if b"BEGIN PUBLIC KEY" in pem else _peer_name(pem, file)
    targets = {
        holder: site.grant_key(holder) if name == GRANT else site.certificate(name, held_by=holder)
        for holder in here
        if (holder in VERIFIES_GRANTS if name == GRANT else name in KNOWS[holder])
    }
    if not targets:
        raise ConfigurationError(f"{file} is {name}'s, and {', '.join(here)} (in {root}) has no dealings with {name}")
    for path in targets.values():
        if path.exists() and fingerprint_of(path.read_bytes()) != found and not replace:
            raise ConfigurationError(
                f"{path} pins another certificate of {name}: {readable(fingerprint_of(path.read_bytes()))}."
                " If its owner has renewed it, say --replace"
            )
    for path in targets.values():
        write_public(path, pem)
    return [_row(name, holder, path, own=False) for holder, path in targets.items()]


def _here(site: Site) -> list[str]:
    here = [identity for identity in FOLDERS if site.private_key(identity).exists()]
    if not here:
        raise ConfigurationError(f"{site.root} holds no role's folder: make one with `darkroom provision --dir {site.root}`")
    return here


def _peer_name(pem: bytes, file: Path) -> str:
    """Whose certificate it is. Raises ConfigurationError."""
    name = certificate_name(pem)
    if name not in FOLDERS:
        raise ConfigurationError(f"{file} names {name[:80]!r}, which is no role of Darkroom ({', '.join(FOLDERS)})")
    certificate = x509.load_pem_x509_certificate(pem)
    extensions = {type(extension.value): extension.value for extension in certificate.extensions}
    basic, usage = extensions.get(x509.BasicConstraints), extensions.get(x509.KeyUsage)
    signs = isinstance(usage, x509.KeyUsage) and usage.key_cert_sign
    if not isinstance(basic, x509.BasicConstraints) or basic.ca or signs or certificate.issuer != certificate.subject:
        raise ConfigurationError(
            f"{file} can sign other certificates, or was signed by another: Darkroom pins each role's own self-signed"
            " certificate, and takes no authority's word, the hospital's least of all. Its owner makes one with"
            " `darkroom provision`"
        )
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= datetime.now(UTC) <= last:
        raise ConfigurationError(f"{file} is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}, not now")
    return name


def _row(name: str, held_by: str, path: Path, *, own: bool) -> Fingerprint:
    if not path.exists():
        return Fingerprint(name, held_by, own, path, None, None)
    pem = read_file(path, f"the certificate of {name}")
    expires = None if name == GRANT else x509.load_pem_x509_certificate(pem).not_valid_after_utc
    return Fingerprint(name, held_by, own, path, fingerprint_of(pem), expires)
