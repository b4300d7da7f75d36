import errno
import json
import os
from dataclasses import replace

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from client import records
from client.acquisition import pack_object
from client.images import read_image, write_result
from client.keys import MasterKey
from client.origin import Kind
from client.records import RecordState
from protocols.errors import BadInputError, ConfigurationError, NotFoundError
from protocols.identifiers import ObjectId
from protocols.packing import PackingMode
from tests.client.dicom_files import PROVENANCE, sample, small_ct, with_pixels, write

MASTER = MasterKey(bytes(range(32)))


@pytest.fixture
def record(image):
    return replace(
        pack_object(image, MASTER, packing=PackingMode.BLIND, sigma=0.1).record, state=RecordState.STORED, grant="a.b.c"
    )


def test_round_trip_and_mode(tmp_path, record):
    records.save_record(tmp_path, record)
    path = tmp_path / f"{record.object_id}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    found = records.load_stored(tmp_path, record.object_id)
    assert records.render_record(found) == records.render_record(record)
    assert (found.keys.key_a, found.keys.key_b) == (record.keys.key_a, record.keys.key_b)
    assert (found.height, found.width, found.packing, found.nonce) == (20, 30, PackingMode.BLIND, record.nonce)
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_and_pending_objects(tmp_path, record):
    with pytest.raises(NotFoundError, match="check the id"):
        records.load_record(tmp_path, record.object_id)
    records.save_record(tmp_path, replace(record, state=RecordState.PENDING))
    with pytest.raises(NotFoundError, match="darkroom delete"):
        records.load_stored(tmp_path, record.object_id)


@pytest.mark.parametrize("text", ["", "../../etc/passwd", "A" * 32, "a" * 31, "a" * 33, "a" * 31 + "\n"])
def test_ids_that_are_none(text):
    with pytest.raises(BadInputError, match="object id"):
        records.parse_object_id(text)


def test_ids_as_typed():
    assert records.parse_object_id(" " + "a" * 32 + "\n") == ObjectId("a" * 32)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("height", -1),
        ("height", 1 << 40),
        ("height", True),
        ("sigma", "0.1"),
        ("sigma", float("nan")),
        ("packing", "none"),
        ("nonce", "zz"),
        ("key_a", "00"),
        ("grant", None),
        ("format", 2),
        ("object_id", "x"),
        ("kind", []),
    ],
)
def test_damaged_records_are_refused_and_show_no_key(tmp_path, record, key, value):
    path = tmp_path / f"{record.object_id}.json"
    records.save_record(tmp_path, record)
    content = json.loads(path.read_bytes())
    content[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="damaged") as caught:
        records.load_record(tmp_path, record.object_id)
    assert record.keys.key_b.hex() not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000])
def test_hostile_record_files(tmp_path, record, content):
    path = tmp_path / f"{record.object_id}.json"
    records.save_record(tmp_path, record)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="damaged"):
        records.load_record(tmp_path, record.object_id)


def test_a_record_that_others_can_read_or_of_another_object_is_refused(tmp_path, record):
    records.save_record(tmp_path, record)
    path = tmp_path / f"{record.object_id}.json"
    other = ObjectId.fresh()
    (tmp_path / f"{other}.json").write_bytes(path.read_bytes())
    (tmp_path / f"{other}.json").chmod(0o600)
    with pytest.raises(ConfigurationError, match="renamed"):
        records.load_record(tmp_path, other)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        records.load_record(tmp_path, record.object_id)


def test_full_disk_keeps_the_older_record(tmp_path, record, monkeypatch):
    records.save_record(tmp_path, record)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="disk is full"):
        records.save_record(tmp_path, replace(record, grant="new"))
    monkeypatch.undo()
    assert records.load_record(tmp_path, record.object_id).grant == "a.b.c"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_header_lies_beside_the_record_closed_and_without_pixels(tmp_path):
    source = read_image(records.Path(get_testdata_file("examples_overlay.dcm")))
    record = pack_object(source, MASTER, packing=PackingMode.KEYED, sigma=0.1).record
    records.save_record(tmp_path, record)
    records.save_header(tmp_path, record.object_id, source.origin)
    path = tmp_path / f"{record.object_id}.dcm"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "PixelData" not in pydicom.dcmread(path)
    origin = records.load_origin(tmp_path, records.load_record(tmp_path, record.object_id))
    assert origin.kind is Kind.DICOM
    assert origin.normalisation == source.normalisation
    assert records.delete_record(tmp_path, record.object_id)
    assert list(tmp_path.iterdir()) == []
    assert not records.delete_record(tmp_path, record.object_id)


def restored(folder, image):
    """An image's origin, as an edge elsewhere finds it."""
    record = pack_object(image, MASTER, packing=PackingMode.KEYED, sigma=0.1).record
    records.save_record(folder, record)
    records.save_header(folder, record.object_id, image.origin)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    return record, records.load_origin(folder, records.load_record(folder, record.object_id))


def test_padding_is_kept_beside_the_record_and_comes_back_at_the_edge(tmp_path):
    words = np.linspace(0, 999, 400).round().astype("i2").reshape(20, 20)
    words[2:5, 3:9] = -2000
    path = write(tmp_path / "in.dcm", with_pixels(small_ct(), words, PixelPaddingValue=-2000))
    image, folder = read_image(path), tmp_path / "objects"
    folder.mkdir()
    record, origin = restored(folder, image)
    assert record.kept_pixels == 18
    write_result(tmp_path / "out.dcm", image.pixels * 0.5, origin, PROVENANCE)
    assert (pydicom.dcmread(tmp_path / "out.dcm").pixel_array == -2000).sum() == 18
    kept = folder / f"{record.object_id}.kept"
    for content in (b"PK", kept.read_bytes()[:-40], b""):
        kept.write_bytes(content)
        with pytest.raises(ConfigurationError, match="damaged"):
            records.load_origin(folder, record)
    np.savez(kept.open("wb"), mask=np.zeros((3, 3), dtype=bool), values=np.zeros(0))
    with pytest.raises(ConfigurationError, match="does not fit"):
        records.load_origin(folder, record)
    kept.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        records.load_origin(folder, record)
    assert records.delete_record(folder, record.object_id)
    assert list(folder.iterdir()) == []


def test_the_header_of_a_nifti_slice_is_kept_too(tmp_path):
    nibabel.Nifti1Image(np.arange(120, dtype="i2").reshape(12, 10), np.eye(4)).to_filename(tmp_path / "in.nii")
    image, folder = read_image(tmp_path / "in.nii"), tmp_path / "objects"
    folder.mkdir()
    record, origin = restored(folder, image)
    write_result(tmp_path / "out.nii", image.pixels, origin, PROVENANCE)
    assert (tmp_path / "out.nii").read_bytes() == (tmp_path / "in.nii").read_bytes()
    (folder / f"{record.object_id}.header").unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        records.load_origin(folder, record)


def test_a_record_of_an_earlier_version_is_read(tmp_path):
    record = pack_object(read_image(sample("CT_small.dcm")), MASTER, packing=PackingMode.KEYED, sigma=0.1).record
    records.save_record(tmp_path, record)
    path = tmp_path / f"{record.object_id}.json"
    content = json.loads(path.read_text())
    del content["kept_pixels"]
    path.write_text(json.dumps(content))
    assert records.load_record(tmp_path, record.object_id).kept_pixels == 0
