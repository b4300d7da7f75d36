from datetime import timedelta

import pytest

from client.config import load_config
from protocols.errors import ConfigurationError
from protocols.identifiers import Role


def rewrite(hospital, old, new):
    text = hospital.path.read_text()
    assert old in text
    hospital.path.write_text(text.replace(old, new))
    return load_config(hospital.path)


def without(hospital, section):
    parts = hospital.path.read_text().split("\n[")
    hospital.path.write_text("\n[".join(part for part in parts if not part.startswith(f"{section}]")))
    return load_config(hospital.path)


def test_paths_are_relative_to_the_file(hospital, tmp_path):
    assert hospital.objects == tmp_path / "objects"
    assert hospital.window == timedelta(hours=24)
    assert hospital.require_client().identity.certificate == (tmp_path / "certs" / "client.crt").read_bytes()
    assert hospital.require_edge().private_key == (tmp_path / "edge.key").read_bytes()
    peer = hospital.peer(Role.B)
    assert (peer.name, peer.address) == ("server B", "127.0.0.1:2")


def test_the_hospital_section_is_optional(hospital, tmp_path):
    config = without(hospital, "hospital")
    assert (config.objects, config.window, config.edge_name) == (tmp_path / "objects", timedelta(hours=24), "edge")


@pytest.mark.parametrize(
    ("section", "require"), [("client", "require_client"), ("edge", "require_edge"), ("model_owner", "require_model_owner")]
)
def test_a_missing_section_is_named_with_what_to_do(hospital, section, require):
    config = without(hospital, section)
    with pytest.raises(ConfigurationError, match=rf"no \[{section}\].*use --config"):
        getattr(config, require)()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[servers.b]", "[servers.c]", r"no section \[servers.b\]"),
        ('address = "127.0.0.1:1"', "address = 1", r'\[servers.a\] needs address = "..."'),
        ('noise_key = "noise.key"', "", r"\[client\] needs noise_key"),
        ('window = "24h"', 'windw = "24h"', "unknown entry 'windw'"),
        ('window = "24h"', 'window = "soon"', r"\[hospital\] window"),
        ("[edge]", "[egde]", "unknown entry 'egde'"),
        ("[edge]", "[edge", "not valid TOML"),
    ],
)
def test_mistakes_are_named(hospital, old, new, message):
    with pytest.raises(ConfigurationError, match=message):
        rewrite(hospital, old, new)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load_config(tmp_path / "x.toml")


def test_an_expired_certificate_is_refused_with_its_date(hospital, tmp_path, identity_writer):
    identity_writer(tmp_path, "edge", days=-1)
    with pytest.raises(ConfigurationError, match=r"edge's certificate .* expired on \d{4}-\d\d-\d\d"):
        hospital.require_edge()
    identity_writer(tmp_path, "server-a", days=-2)
    with pytest.raises(ConfigurationError, match="certificate of server A .* expired on"):
        hospital.peer(Role.A)


def test_missing_open_and_foreign_key_files(hospital, tmp_path, identity_writer):
    (tmp_path / "client.key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        hospital.require_client()
    (tmp_path / "client.key").chmod(0o600)
    (tmp_path / "signing.key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="signing key .* chmod 600"):
        hospital.require_client()
    (tmp_path / "edge.key").write_bytes((tmp_path / "client.key").read_bytes())
    with pytest.raises(ConfigurationError, match="does not belong to"):
        hospital.require_edge()
    (tmp_path / "edge.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(ConfigurationError, match="PEM private key"):
        hospital.require_edge()
    (tmp_path / "certs" / "server-b.crt").unlink()
    with pytest.raises(ConfigurationError, match="certificate of server B .* cannot be read"):
        hospital.peer(Role.B)


def test_another_noise_key(hospital, tmp_path):
    (tmp_path / "other.key").write_text("ab" * 32)
    (tmp_path / "other.key").chmod(0o600)
    assert hospital.with_noise_key(tmp_path / "other.key").require_client().noise_key.value == b"\xab" * 32
