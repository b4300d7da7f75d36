"""A full disk, for the hospital's result and records and for a server's store: said, with the folder; nothing half-written."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client import acquisition, edge
from client.images import write_result
from proto.exit_codes import ExitCode, exit_code_of
from protocols.errors import DarkroomError
from tests.integration.conftest import picture
from tests.integration.failing_site import FailingSite

SIDE = 128  # 128 KiB as words: more than the disk has
DISK = "size=64k"

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], None]]:
    """Mount a disk of 64 KiB over a folder."""
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", folder], capture_output=True, text=True, check=False)  # noqa: S607
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)  # noqa: S607


def test_the_disk_of_the_result(failing: FailingSite, tmp_path: Path, small_disk: Callable[[Path], None]) -> None:
    small_disk(tmp_path)
    image = picture(SIDE, SIDE)
    record = acquisition.store(failing.config, image, sigma=0.05)
    denoised = edge.denoise(failing.config, record.object_id, model="tiny")
    with pytest.raises(DarkroomError, match=rf"{tmp_path}/out.npy was not written, the disk is full: free some space") as caught:
        write_result(tmp_path / "out.npy", denoised.pixels, image.origin, denoised.provenance)
    assert exit_code_of(caught.value) is ExitCode.CONFIGURATION
    assert list(tmp_path.iterdir()) == []
    acquisition.delete(failing.config, record.object_id)


def test_the_disk_of_the_records(failing: FailingSite, tmp_path: Path, small_disk: Callable[[Path], None]) -> None:
    before = failing.stored()
    small_disk(tmp_path)
    filler = tmp_path / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb") as file:
        file.write(bytes(1 << 20))
    with pytest.raises(DarkroomError, match=rf"{tmp_path}/nonces.sqlite cannot be written: .*full; nothing was sent") as caught:
        acquisition.store(replace(failing.config, objects=tmp_path), picture(), sigma=0.05)
    assert exit_code_of(caught.value) is ExitCode.CONFIGURATION
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".json", ".part")]
    assert failing.stored() == before


def test_the_disk_of_a_server(failing: FailingSite, small_disk: Callable[[Path], None]) -> None:
    before, records = failing.stored(), sorted(failing.config.objects.iterdir())
    store = failing.site.folder("server-b") / "b.store" / "objects"
    small_disk(store)
    with pytest.raises(DarkroomError) as caught:
        acquisition.store(failing.config, picture(SIDE, SIDE), sigma=0.05)
    assert list(store.iterdir()) == []
    sentence = f"server B at {failing.lines['client-b'].address}, asked to store its share: this server cannot store the share"
    assert str(caught.value).startswith(sentence)
    assert "No space left" in str(caught.value)
    assert "its operator must see to the disk" in str(caught.value)
    assert str(caught.value).endswith("nothing was stored")
    assert exit_code_of(caught.value) is ExitCode.PEER
    assert sorted(failing.config.objects.iterdir()) == records
    assert [name for name in failing.stored() if name.startswith("a/")] == [name for name in before if name.startswith("a/")]
