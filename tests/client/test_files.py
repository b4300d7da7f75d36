import errno
import os

import pytest

from client.files import create_private, read_private, replacing, require_regular
from protocols.errors import BadInputError, ConfigurationError


def test_replacing_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def interrupted():
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    """What exists is never overwritten: a part of a key would be there for good."""

    def interrupted(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create_private(tmp_path / "key", b"secret")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_clear_error_and_leaves_no_half_file(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="disk is full"), replacing(tmp_path / "out") as file:
        file.write(b"content")
    with pytest.raises(ConfigurationError, match="disk is full"):
        create_private(tmp_path / "key", b"secret")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere"), replacing(tmp_path / "nowhere" / "out"):
        pass


def test_private_files_are_created_closed_and_never_overwritten(tmp_path):
    path = tmp_path / "key"
    create_private(path, b"first")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigurationError, match="not overwritten"):
        create_private(path, b"second")
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_private_file_open_to_others_is_refused_with_the_command(tmp_path, mode):
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
        read_private(path, "the key")


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    with pytest.raises(BadInputError, match="not a regular file"):
        require_regular(tmp_path, 10)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="not a regular file"):
        require_regular(tmp_path / "pipe", 10)
    (tmp_path / "long").write_bytes(bytes(11))
    with pytest.raises(BadInputError, match="at most 10"):
        require_regular(tmp_path / "long", 10)
