"""Identities: what certificates say, who can read keys, and that no folder holds another role's secret."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from client.config import load_config
from darkroom.provision import FOLDERS, KNOWS, VALIDITY, Site, provision
from darkroom.settings_files import Addresses, dealer_settings, hospital_settings, server_settings
from proto.party import Settings
from proto.transport import certificate_name
from protocols.errors import ConfigurationError

NOW = datetime.now(UTC)
SECRETS = {
    "dealer": {"dealer.key"},
    "server-a": {"server-a.key"},
    "server-b": {"server-b.key"},
    "hospital/client": {"client.key", "noise.key", "signing.key"},
    "hospital/edge": {"edge.key"},
    "model-owner": {"model-owner.key"},
}


def names_in(certificate_pem: bytes) -> list[str]:
    """Every name and address in a certificate, in order."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return provision(tmp_path_factory.mktemp("site") / "root")


def test_each_folder_holds_its_own_secrets_alone(site: Site) -> None:
    found: dict[str, set[str]] = {}
    for path in site.root.rglob("*.key"):
        found.setdefault(str(path.parent.relative_to(site.root)), set()).add(path.name)
    assert found == SECRETS
    private = [path for path in site.root.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]
    assert {path.suffix for path in private} == {".key"}


def test_modes(site: Site) -> None:
    for path in [site.root, *site.root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix == ".key":
            assert mode == 0o600, path


@pytest.mark.parametrize("identity", FOLDERS)
def test_certificates_name_one_identity_and_sign_nothing(site: Site, identity: str) -> None:
    pem = site.certificate(identity, held_by=identity).read_bytes()
    assert certificate_name(pem) == identity
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert certificate.not_valid_after_utc - NOW <= VALIDITY + timedelta(minutes=5)


def test_every_peer_is_pinned_by_its_own_certificate(site: Site) -> None:
    for identity, known in KNOWS.items():
        present = {path.stem for path in (site.folder(identity) / "certs").glob("*.crt")}
        assert present == {identity, *known}
        for peer in known:
            pinned = site.certificate(peer, held_by=identity).read_bytes()
            assert pinned == site.certificate(peer, held_by=peer).read_bytes()


def test_again_keeps_everything(site: Site) -> None:
    before = {path: path.read_bytes() for path in site.root.rglob("*") if path.is_file()}
    provision(site.root)
    assert {path: path.read_bytes() for path in site.root.rglob("*") if path.is_file()} == before


def test_expired_certificates_are_renewed_under_the_same_key(tmp_path: Path) -> None:
    site = provision(tmp_path / "old", now=NOW - VALIDITY - timedelta(days=1))
    path = site.certificate("edge", held_by="edge")
    old, key = path.read_bytes(), site.private_key("edge").read_bytes()
    provision(site.root)
    new = path.read_bytes()
    assert new != old
    assert site.certificate("edge", held_by="server-a").read_bytes() == new
    assert site.private_key("edge").read_bytes() == key
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    public = [x509.load_pem_x509_certificate(pem).public_key().public_bytes(*form) for pem in (old, new)]
    assert public[0] == public[1]


def test_a_key_that_was_taken_away_is_followed_by_a_new_identity(tmp_path: Path) -> None:
    site = provision(tmp_path / "site")
    certificate = site.certificate("server-a", held_by="server-a")
    before, grant = certificate.read_bytes(), site.grant_key("server-a").read_bytes()
    site.private_key("server-a").unlink()
    site.signing_key.unlink()
    provision(site.root)
    pem = certificate.read_bytes()
    key = serialization.load_pem_private_key(site.private_key("server-a").read_bytes(), password=None)
    assert pem != before
    assert x509.load_pem_x509_certificate(pem).public_key() == key.public_key()
    assert site.certificate("server-a", held_by="server-b").read_bytes() == pem
    assert site.grant_key("server-a").read_bytes() != grant


def test_what_a_crash_left_out_is_made_up_for(tmp_path: Path) -> None:
    site = provision(tmp_path / "site")
    for path in (site.certificate("dealer", held_by="dealer"), site.grant_key("server-b")):
        path.unlink()
    provision(site.root)
    assert (
        site.certificate("dealer", held_by="server-a").read_bytes() == site.certificate("dealer", held_by="dealer").read_bytes()
    )
    assert site.grant_key("server-b").read_bytes() == site.grant_key("server-a").read_bytes()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("not a folder")
    with pytest.raises(ConfigurationError, match="site"):
        provision(tmp_path / "site")


def test_the_hospitals_files_load_and_hold_what_they_should(site: Site) -> None:
    hospital_settings(site, Addresses("127.0.0.1:1", "127.0.0.1:2"))
    held = {}
    for name in ("client.toml", "edge.toml", "hospital.toml", "model-owner.toml"):
        config = load_config(site.root / name)
        held[name] = (config.client is not None, config.edge is not None, config.model_owner is not None)
        config.require_any()
    assert held == {
        "client.toml": (True, False, False),
        "edge.toml": (False, True, False),
        "hospital.toml": (True, True, True),
        "model-owner.toml": (False, False, True),
    }
    both = load_config(site.root / "hospital.toml")
    both.require_client()
    both.require_edge()
    assert both.objects == site.objects


def test_the_servers_files_load(site: Site) -> None:
    dealer = Settings.load(dealer_settings(site, "127.0.0.1:0"))
    assert set(dealer.callers()) == {"server-a", "server-b"}
    dealer.identity()
    a = Settings.load(server_settings(site, "server-a", "127.0.0.1:0", dealer="127.0.0.1:1"))
    b = Settings.load(server_settings(site, "server-b", "127.0.0.1:0", dealer="127.0.0.1:1", leader="127.0.0.1:2"))
    assert set(a.callers()) == {"client", "edge", "model-owner", "server-b"}
    assert set(b.callers()) == {"client", "edge", "model-owner"}
    assert certificate_name(a.peer("dealer", "dealer").certificate) == "dealer"
    assert certificate_name(b.peer("server A", "leader").certificate) == "server-a"
