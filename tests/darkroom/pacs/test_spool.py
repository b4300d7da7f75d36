"""The spool: nothing that was acknowledged is lost, nothing is delivered under two names."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.pacs.spool import Entry, Spool, Stage, open_spool
from protocols.errors import ConfigurationError

LIMIT = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    with open_spool(folder, LIMIT) as opened:
        yield opened


def oldest(spool: Spool, stage: Stage = Stage.INCOMING) -> Entry:
    entry = spool.oldest(stage)
    assert entry is not None
    return entry


def denoise(spool: Spool, entry: Entry) -> None:
    spool.work_path(entry).write_bytes(b"result of " + entry.path.read_bytes())
    spool.denoised(entry)


def counts(spool: Spool) -> list[int]:
    return [spool.count(stage) for stage in Stage]


def test_the_way_of_an_object(spool: Spool) -> None:
    entry_id = spool.add(b"object")
    entry = oldest(spool)
    assert (entry.entry_id, entry.path.read_bytes()) == (entry_id, b"object")
    assert counts(spool) == [1, 0, 0]
    denoise(spool, entry)
    assert counts(spool) == [0, 1, 0]
    ready = oldest(spool, Stage.OUTGOING)
    assert (ready.entry_id, ready.path.read_bytes()) == (entry_id, b"result of object")
    spool.delivered(ready)
    assert counts(spool) == [0, 0, 0]
    assert spool.oldest(Stage.OUTGOING) is None


def test_only_its_owner_can_read_it(spool: Spool, folder: Path) -> None:
    spool.add(b"object")
    entry = oldest(spool)
    spool.fail(entry, "no image")
    spool.add(b"another")
    denoise(spool, oldest(spool))
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_spool_that_others_can_read_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(ConfigurationError, match="chmod 700"), open_spool(folder, LIMIT):
        pass


def test_first_come_first_served_through_both_stages(spool: Spool) -> None:
    names = [b"a", b"b", b"c"]
    for index, name in enumerate(names):
        path = spool._path(Stage.INCOMING, spool.add(name))
        os.utime(path, ns=(index, index))  # a clock's steps are too coarse for three files
    for _ in names:
        denoise(spool, oldest(spool))
    order = []
    while (entry := spool.oldest(Stage.OUTGOING)) is not None:
        order.append(entry.path.read_bytes()[-1:])
        spool.delivered(entry)
    assert order == names


def test_twice_while_it_waits_is_once(spool: Spool) -> None:
    assert spool.add(b"object") == spool.add(b"object")
    assert counts(spool) == [1, 0, 0]
    denoise(spool, oldest(spool))
    spool.add(b"object")
    assert counts(spool) == [0, 1, 0]


def test_a_failure_keeps_object_and_reason(spool: Spool, folder: Path) -> None:
    entry_id = spool.add(b"object")
    entry = oldest(spool)
    spool.fail(entry, "it is in colour")
    assert counts(spool) == [0, 0, 1]
    reason = (folder / "failed" / f"{entry_id}.txt").read_text()
    assert reason.startswith("it is in colour\n")
    assert f"mv {folder / 'failed' / entry_id}.dcm {entry.path}" in reason
    (folder / "failed" / f"{entry_id}.dcm").rename(entry.path)
    assert oldest(spool) == entry


def test_sent_again_a_failed_object_is_tried_again(spool: Spool, folder: Path) -> None:
    spool.add(b"object")
    spool.fail(oldest(spool), "no")
    spool.add(b"object")
    assert counts(spool) == [1, 0, 0]
    assert list((folder / "failed").iterdir()) == []


def test_the_bound_counts_every_stage(spool: Spool) -> None:
    spool.add(bytes(400))
    spool.fail(oldest(spool), "no")
    spool.add(bytes(500))
    with pytest.raises(ConfigurationError, match="full"):
        spool.add(b"x" * 101)
    assert counts(spool) == [1, 0, 1]
    spool.add(b"x" * 100)


def test_a_full_disk_leaves_nothing_half_written(spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="disk is full"):
        spool.add(b"object")
    assert list((folder / "incoming").iterdir()) == []


def test_acknowledged_means_synchronised(spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and the folder that names it; a crash of the machine loses neither."""
    synced: list[str] = []
    real = os.fsync

    def remember(descriptor: int) -> None:
        synced.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", remember)
    spool.add(b"object")
    assert Path(synced[0]).suffix == ".part"
    assert synced[1:] == [str(folder.resolve() / "incoming")]


@pytest.mark.parametrize("crash", ["while writing", "after the result"])
def test_after_a_crash(folder: Path, crash: str) -> None:
    with open_spool(folder, LIMIT) as spool:
        entry_id = spool.add(b"object")
        entry = oldest(spool)
        if crash == "while writing":
            spool.work_path(entry).write_bytes(b"hal")
            (folder / "incoming" / ".x.dcm.0123.part").write_bytes(b"hal")
        else:
            (folder / "outgoing" / f"{entry_id}.dcm").write_bytes(b"result")
    with open_spool(folder, LIMIT) as spool:
        assert counts(spool) == ([1, 0, 0] if crash == "while writing" else [0, 1, 0])
        assert sum(path.is_file() for path in folder.rglob("*")) == 2  # the object and the lock


def test_the_salt_outlives_a_restart(folder: Path) -> None:
    salts = []
    for _ in range(2):
        with open_spool(folder, LIMIT) as spool:
            salts.append(spool.salt())
    assert salts[0] == salts[1]
    (folder / ".salt").write_bytes(b"x")
    with open_spool(folder, LIMIT) as spool, pytest.raises(ConfigurationError, match="salt"):
        spool.salt()


def test_two_services_on_one_spool(spool: Spool, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="another process"), open_spool(folder, LIMIT):
        pass


def test_unchanged_goes_out_as_it_came(spool: Spool) -> None:
    spool.add(b"colour")
    spool.unchanged(oldest(spool))
    assert oldest(spool, Stage.OUTGOING).path.read_bytes() == b"colour"
    assert counts(spool) == [0, 1, 0]
