"""Each operator on its own machine: certificates change hands as files, and are believed by their fingerprint only."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.config import load_config
from darkroom.acceptance import accept, fingerprints
from darkroom.provision import ROLES, VALIDITY, Site, certificate_for, provision
from darkroom.settings_files import role_settings
from darkroom.site_addresses import SiteAddresses
from proto.fingerprints import readable
from proto.party import Settings
from proto.transport import fingerprint
from protocols.errors import BadInputError, ConfigurationError
from protocols.identifiers import Role
from server.config import server_config

ADDRESSES = SiteAddresses()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Site]:
    """Five machines, each with its own role's folder alone, before anything is exchanged."""
    made = {}
    for role in ROLES:
        made[role] = provision(tmp_path_factory.mktemp(role), roles=[role])
        role_settings(made[role], role, ADDRESSES)
    return made


def exchange(machines: dict[str, Site]) -> None:
    """Everyone takes over what is missing, by the fingerprint that its owner's own table shows."""
    own = {row.name: row for site in machines.values() for row in fingerprints(site.root) if row.own}
    for site in machines.values():
        for name in {row.name for row in fingerprints(site.root) if row.fingerprint is None}:
            accept(site.root, own[name].path, own[name].text)


def test_a_role_alone_makes_its_own_folder_alone(machines: dict[str, Site]) -> None:
    for role, site in machines.items():
        keys = {path.name for path in site.root.rglob("*.key")}
        assert {f"{identity}.key" for identity in ROLES[role]} <= keys
        assert len(keys) == (4 if role == "hospital" else 1)
        assert not (site.root / "hospital.toml").exists()


def test_after_the_exchange_every_role_is_complete(machines: dict[str, Site]) -> None:
    exchange(machines)
    tables = {role: fingerprints(site.root) for role, site in machines.items()}
    own = {row.name: row.fingerprint for rows in tables.values() for row in rows if row.own}
    pinned = [row for rows in tables.values() for row in rows if not row.own]
    assert len(pinned) == 20
    assert all(row.fingerprint == own[row.name] for row in pinned)
    for letter in "ab":
        settings = Settings.load(machines[f"server-{letter}"].folder(f"server-{letter}") / "server.toml")
        server_config(settings, Role(letter.upper()))
        settings.callers()
    assert set(Settings.load(machines["dealer"].folder("dealer") / "dealer.toml").callers()) == {"server-a", "server-b"}
    hospital = load_config(machines["hospital"].root / "hospital" / "hospital.toml")
    hospital.require_client()
    for role in Role:
        assert fingerprint(hospital.peer(role).certificate) == own[f"server-{role.value.lower()}"]
    owner = load_config(machines["model-owner"].root / "model-owner" / "model-owner.toml")
    assert owner.peer(Role.A).certificate == hospital.peer(Role.A).certificate


def test_another_fingerprint_is_refused_and_nothing_is_written(tmp_path: Path, machines: dict[str, Site]) -> None:
    site = provision(tmp_path, roles=["server-b"])
    certificate = machines["server-a"].certificate("server-a", held_by="server-a")
    digest = fingerprint(certificate.read_bytes())
    wrong = f"{digest[:-1]}{'0' if digest[-1] != '0' else '1'}"
    with pytest.raises(ConfigurationError, match="not what its owner read out") as refused:
        accept(site.root, certificate, wrong)
    assert readable(digest) in str(refused.value)
    with pytest.raises(BadInputError):
        accept(site.root, certificate, digest[:16])
    assert not site.certificate("server-a", held_by="server-b").exists()


def test_a_renewed_certificate_replaces_the_old_one_only_on_request(tmp_path: Path) -> None:
    b, a = provision(tmp_path / "b", roles=["server-b"]), provision(tmp_path / "a", roles=["server-a"])
    certificate = a.certificate("server-a", held_by="server-a")
    accept(b.root, certificate, fingerprint(certificate.read_bytes()))
    old, key = certificate.read_bytes(), a.private_key("server-a").read_bytes()
    provision(a.root, roles=["server-a"], renew=True)
    assert certificate.read_bytes() != old
    assert a.private_key("server-a").read_bytes() == key
    with pytest.raises(ConfigurationError, match="--replace"):
        accept(b.root, certificate, fingerprint(certificate.read_bytes()))
    assert b.certificate("server-a", held_by="server-b").read_bytes() == old
    accept(b.root, certificate, fingerprint(certificate.read_bytes()), replace=True)
    assert b.certificate("server-a", held_by="server-b").read_bytes() == certificate.read_bytes()


def test_one_that_this_role_does_not_deal_with_is_refused(machines: dict[str, Site]) -> None:
    dealer, client = machines["dealer"], machines["hospital"].certificate("client", held_by="client")
    with pytest.raises(ConfigurationError, match="no dealings with client"):
        accept(dealer.root, client, fingerprint(client.read_bytes()))


def issued(name: str, *, issuer: str, ca: bool, days: int = 30) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    common = x509.oid.NameOID.COMMON_NAME
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(common, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(common, issuer)]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (issued("server-a", issuer="server-a", ca=True), "can sign other certificates"),
        (issued("server-a", issuer="Hospital CA", ca=False), "was signed by another"),
        (issued("server-c", issuer="server-c", ca=False), "no role of Darkroom"),
        (
            certificate_for("server-a", ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC) - 2 * VALIDITY),
            "not now",
        ),
    ],
    ids=["an authority", "an authority's", "a stranger", "expired"],
)
def test_authorities_strangers_and_the_expired_are_refused(tmp_path: Path, pem: bytes, reason: str) -> None:
    site = provision(tmp_path / "b", roles=["server-b"])
    (tmp_path / "it.crt").write_bytes(pem)
    with pytest.raises(ConfigurationError, match=reason):
        accept(site.root, tmp_path / "it.crt", fingerprint(pem))
    assert not site.certificate("server-a", held_by="server-b").exists()


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="darkroom provision"):
        fingerprints(tmp_path)


def test_a_moved_folder_needs_nothing_from_where_it_was(tmp_path: Path) -> None:
    site = provision(tmp_path / "site")
    for role in ROLES:
        role_settings(site, role, ADDRESSES)
    moved = tmp_path / "moved"
    for role in ROLES:
        shutil.move(site.root / role, moved / role)
    shutil.rmtree(site.root)
    hospital = load_config(moved / "hospital" / "hospital.toml")
    hospital.require_client()
    hospital.require_edge()
    hospital.peer(Role.B)
    assert hospital.objects == moved / "hospital" / "objects"
    load_config(moved / "model-owner" / "model-owner.toml").require_model_owner()
    for letter in "ab":
        server_config(Settings.load(moved / f"server-{letter}" / "server.toml"), Role(letter.upper()))
    Settings.load(moved / "dealer" / "dealer.toml").identity()
