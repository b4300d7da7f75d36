"""A folder that cannot be written is found by writing, and the message says what to do."""

import errno
import os
from pathlib import Path

import pytest

from proto import writable
from proto.writable import require_writable, writing
from protocols.errors import ConfigurationError


def test_a_folder_that_can_be_written_stays_as_it_is(tmp_path: Path) -> None:
    require_writable(tmp_path, "the store")
    require_writable(tmp_path / "not" / "there yet", "the store")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_its_place_or_above_it(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    for folder in (tmp_path / "store", tmp_path / "store" / "objects"):
        with pytest.raises(ConfigurationError, match=rf"^the store {folder} cannot be written: .* move it away"):
            require_writable(folder, "the store")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "Mount its disk for writing"),
        (errno.EACCES, f"It must belong to .* is now {os.geteuid()}: chown -R {os.geteuid()} "),
        (errno.EISDIR, "A folder stands in its place"),
    ],
)
def test_each_cause_has_its_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^the ready file {tmp_path} cannot be written: .*\. {remedy}"):
        with writing(tmp_path, "the ready file"):
            raise OSError(number, os.strerror(number))


def test_a_full_disk_is_found_when_a_byte_is_written_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writable.os, "fsync", full)
    with pytest.raises(ConfigurationError, match="Free some space"):
        require_writable(tmp_path, "the store")
    assert list(tmp_path.iterdir()) == []
