import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.keys import MasterKey, create_noise_key, create_signing_key, read_noise_key, read_signing_key
from protocols.errors import ConfigurationError


def test_noise_key_round_trip_and_mode(tmp_path):
    path = tmp_path / "noise.key"
    key = create_noise_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_noise_key(path).value == key.value
    with pytest.raises(ConfigurationError, match="not overwritten"):
        create_noise_key(path)
    assert read_noise_key(path).value == key.value


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"ab" * 31, b"ab" * 33, b"\xff" * 64, "é".encode() * 32])
def test_malformed_noise_key_is_refused_and_not_quoted(tmp_path, content):
    path = tmp_path / "noise.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="64 hex digits") as caught:
        read_noise_key(path)
    assert "abab" not in str(caught.value)


def test_noise_key_open_to_others_is_refused(tmp_path):
    path = tmp_path / "noise.key"
    create_noise_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_noise_key(path)


def test_objects_get_different_keys():
    master = MasterKey(bytes(range(32)))
    first, second = master.for_object(bytes(16)), master.for_object(bytes(15) + b"\1")
    assert len({first.key_a, first.key_b, second.key_a, second.key_b}) == 4


def test_signing_key_round_trip_and_other_kinds_are_refused(tmp_path):
    key = create_signing_key(tmp_path / "s.key", tmp_path / "s.pub")
    assert (tmp_path / "s.key").stat().st_mode & 0o777 == 0o600
    assert read_signing_key(tmp_path / "s.key").public_pem == key.public_pem == (tmp_path / "s.pub").read_bytes()
    other = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "s.key").write_bytes(other.private_bytes(*form))
    with pytest.raises(ConfigurationError, match="not an Ed25519 key"):
        read_signing_key(tmp_path / "s.key")
    (tmp_path / "s.key").write_bytes(b"no key")
    with pytest.raises(ConfigurationError, match="PEM"):
        read_signing_key(tmp_path / "s.key")
