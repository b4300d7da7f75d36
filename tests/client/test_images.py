import errno
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from client.images import check_output, preview, read_image, write_result
from client.origin import MAX_PIXELS, Kind, Provenance
from protocols.errors import BadInputError, ConfigurationError

PROVENANCE = Provenance("base", 25 / 255, "crypten")


def npy(array, **options):
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def header(shape, descr="<f8"):
    """An .npy header that promises anything."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", ">f4", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_round_trip_is_neither_normalised_nor_clipped(tmp_path, dtype, order):
    array = np.linspace(-0.5, 1.5, 8 * 11).reshape(8, 11).astype(dtype, order=order)
    np.save(tmp_path / "in.npy", array)
    image = read_image(tmp_path / "in.npy")
    assert (image.kind, image.height, image.width, image.bits) == (Kind.NPY, 8, 11, int(dtype[2]) * 8)
    assert np.array_equal(image.pixels.numpy(), array.astype(np.float64))
    write_result(tmp_path / "out.npy", image.pixels, image.origin, PROVENANCE)
    found = np.load(tmp_path / "out.npy")
    assert np.array_equal(found, array)
    assert found.dtype == np.dtype(dtype).newbyteorder("<")


def test_the_content_decides_not_the_name(tmp_path):
    (tmp_path / "scan.dcm").write_bytes(npy(np.zeros((8, 8))))
    assert read_image(tmp_path / "scan.dcm").kind is Kind.NPY


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.zeros((8, 8), dtype=np.int32)), "holds int32"),
        (npy(np.zeros((8, 8), dtype=np.longdouble)), "holds float128"),
        (npy(np.zeros((8, 8), dtype=complex)), "holds complex"),
        (npy(np.zeros((8, 8), dtype=[("a", "<f8")])), "holds"),
        (npy(np.full((8, 8), None), allow_pickle=True), "not a well-formed"),
        (npy(np.zeros((1, 8, 8))), "3 dimensions"),
        (npy(np.zeros(64)), "1 dimensions"),
        (npy(np.float64(1.0)), "0 dimensions"),
        (npy(np.zeros((7, 90))), "7x90"),
        (npy(np.zeros((8, 0))), "well-formed|8x0"),
        (npy(np.full((8, 8), np.nan)), "NaN"),
        (npy(np.full((8, 8), -np.inf)), "infinite"),
        (npy(np.zeros((8, 8)))[:-1], "well-formed"),
        (header((1 << 40, 1 << 40)), "well-formed"),
        (header((1 << 62, 1 << 62)), "well-formed"),
        (header((-8, 8)), "well-formed"),
        (header((8, 8), "|V0"), "well-formed|holds"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "well-formed"),
        (b"\x93NUMPY\x09\x00", "well-formed"),
        (b"\x93NUMPY", "well-formed"),
        (b"", "no known format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not a well-formed PNG"),
        (b"II*\0" + bytes(200), "not a well-formed PNG or TIFF"),
        (b"\x1f\x8b" + bytes(200), "cannot be read"),
        (b"PK\x03\x04" + bytes(200), "no known format"),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, message):
    (tmp_path / "in.npy").write_bytes(content)
    with pytest.raises(BadInputError, match=message) as caught:
        read_image(tmp_path / "in.npy")
    assert len(str(caught.value)) < 1000


def test_a_plane_that_is_too_large_is_refused_by_its_header(tmp_path):
    with (tmp_path / "in.npy").open("wb") as file:  # sparse: takes no room
        file.write(header((8, MAX_PIXELS // 8 + 1)))
        file.truncate(file.tell() + 8 * (MAX_PIXELS + 8))
    with pytest.raises(BadInputError, match="at most 67108864 in all"):
        read_image(tmp_path / "in.npy")


def test_missing_file(tmp_path):
    with pytest.raises(BadInputError, match="No such file"):
        read_image(tmp_path / "none.npy")


def test_outputs_are_checked_before_the_work(tmp_path, image):
    message = r"the result of a source that is npy can be \.npy, \.png; name"
    for name in ("out.jpg", "out", "out.dcm", "out.nii", "out.tif"):
        with pytest.raises(BadInputError, match=message):
            check_output(tmp_path / name, image.origin)
    with pytest.raises(ConfigurationError, match="does not exist"):
        check_output(tmp_path / "none" / "out.npy", image.origin)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(ConfigurationError, match="is a folder"):
        check_output(tmp_path / "folder.npy", image.origin)


def test_full_disk_leaves_no_half_result(tmp_path, image, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name in ("out.npy", "out.png"):
        with pytest.raises(ConfigurationError, match="disk is full"):
            write_result(tmp_path / name, image.pixels, image.origin, PROVENANCE)
    assert list(tmp_path.iterdir()) == []


def test_preview(tmp_path, image):
    write_result(tmp_path / "out.PNG", image.pixels * 3 - 1, image.origin, PROVENANCE)
    with Image.open(tmp_path / "out.PNG") as shown:
        assert (shown.mode, shown.size) == ("L", (30, 20))
        assert shown.getextrema() == (0, 255)
    assert preview(torch.full((8, 8), 0.5).double(), Kind.NPY).max() == 128
    assert preview(torch.full((8, 8), 0.5).double(), Kind.DICOM).max() == 0  # a constant image has no contrast to show


def test_a_dicom_can_be_written_as_npy(tmp_path):
    image = read_image(type(tmp_path)(get_testdata_file("examples_overlay.dcm")))
    write_result(tmp_path / "out.npy", image.pixels, image.origin, PROVENANCE)
    assert np.array_equal(np.load(tmp_path / "out.npy"), image.pixels.numpy())
