import gzip

import nibabel
import numpy as np
import pytest

from client.dicom_derived import Derivation
from client.images import check_output, read_image, read_stack, write_stack
from client.origin import Kind
from protocols.errors import BadInputError
from tests.client.dicom_files import PROVENANCE, write_untouched

AFFINE = np.array([[-0.9, 0.1, 0, 90], [0, 1.1, 0.2, -126], [0, 0, 2.5, -72], [0, 0, 0, 1]])


def save(path, values, form=nibabel.Nifti1Image, slope=None):
    image = form(values, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"kept as it is"))
    image.header["descrip"] = b"a volume"
    if slope is not None:
        image.header.set_slope_inter(*slope)
    image.to_filename(path)
    return path


def ramp(dtype, shape=(12, 10, 3)):
    count = int(np.prod(shape))
    return (np.arange(count) * 7919 % count).reshape(shape).astype(dtype)


@pytest.mark.parametrize("form", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("name", ["in.nii", "in.nii.gz"])
def test_header_affine_type_and_voxels_come_back(tmp_path, form, dtype, name):
    values = ramp(dtype) % 200
    path = save(tmp_path / name, values.astype(dtype), form)
    stack = read_stack(path)
    assert (stack.kind, stack.count, stack.height, stack.width) == (Kind.NIFTI, 3, 10, 12)
    out = write_untouched(tmp_path / f"out{name[2:]}", stack)
    found, source = nibabel.load(out), nibabel.load(path)
    assert found.get_data_dtype() == source.get_data_dtype()
    assert np.allclose(np.asanyarray(found.dataobj), values, rtol=1e-6)
    assert np.array_equal(found.affine, source.affine)
    assert found.header == source.header
    assert found.header.extensions[0].get_content() == source.header.extensions[0].get_content()
    if np.dtype(dtype).kind != "f":  # nothing changed: byte for byte
        unpack = gzip.decompress if name.endswith("gz") else bytes
        assert unpack(out.read_bytes()) == unpack(path.read_bytes())


def test_scaling_of_the_source_is_kept(tmp_path):
    path = save(tmp_path / "in.nii", ramp("i2"), slope=(0.5, -1024.0))
    found = nibabel.load(write_untouched(tmp_path / "out.nii", read_stack(path)))
    assert (found.dataobj.slope, found.dataobj.inter) == (0.5, -1024.0)
    assert np.array_equal(found.get_fdata(), nibabel.load(path).get_fdata())


def test_planes_are_of_the_first_two_axes_and_share_one_range(tmp_path):
    values = ramp("i2", (12, 10, 2, 3))
    stack = read_stack(save(tmp_path / "in.nii", values))
    assert stack.count == 6
    scaled = (values - values.min()) / (values.max() - values.min())
    assert np.allclose(stack.plane(3).pixels, scaled[:, :, 1, 1].T)


def test_a_result_is_rounded_and_clipped_to_the_type(tmp_path):
    stack = read_stack(save(tmp_path / "in.nii", ramp("u1", (12, 10)) % 200))
    write_stack(tmp_path / "out.nii", [stack.plane(0).pixels * 9 - 2], stack, [PROVENANCE], Derivation.fresh())
    found = np.asanyarray(nibabel.load(tmp_path / "out.nii").dataobj)
    assert (found.min(), found.max()) == (0, 255)


def test_voxels_that_are_no_numbers_come_back_and_disturb_nothing(tmp_path):
    values = ramp("f4")
    values[0, 0, 0], values[3, 4, 1] = np.nan, np.inf
    stack = read_stack(save(tmp_path / "in.nii", values))
    assert all(image.pixels.isfinite().all() for image in stack)
    assert max(float(image.pixels.max()) for image in stack) == 1.0
    found = np.asanyarray(nibabel.load(write_untouched(tmp_path / "out.nii", stack)).dataobj)
    assert np.allclose(found, values, equal_nan=True)


def test_outputs(tmp_path):
    origin = read_stack(save(tmp_path / "in.nii", ramp("i2"))).plane(0).origin
    check_output(tmp_path / "out.NII.GZ", origin, planes=3)
    for name in ("out.dcm", "out.png", "out.gz"):
        with pytest.raises(BadInputError, match=r"can be .nii, .nii.gz, .npy"):
            check_output(tmp_path / name, origin, planes=3)


def header_with(**fields):
    header = nibabel.Nifti1Header()
    header.set_data_dtype("i2")
    header.set_data_shape((12, 10, 3))
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header_with(), "cut short"),
        (header_with(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "32767x32767"),
        (header_with(dim=[5, 30, 30, 32767, 32767, 1, 1, 1]), "planes of 30x30: at most"),
        (header_with(dim=[1, 30, 1, 1, 1, 1, 1, 1]), "1 dimensions"),
        (header_with(dim=[3, 30, 30, -1, 1, 1, 1, 1]), "dimensions"),
        (header_with(dim=[3, 7, 30, 1, 1, 1, 1, 1]), "30x7"),
        (header_with(datatype=128, bitpix=24), "holds"),  # RGB24
        (header_with(datatype=32, bitpix=64), "complex64"),
        (header_with(datatype=9999), "well-formed"),
        (header_with(vox_offset=1e30), "well-formed|cut short"),
        (header_with(vox_offset=-5), "well-formed|cut short"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_hostile_headers_are_refused(tmp_path, content, message, pack):
    (tmp_path / "in.nii").write_bytes(pack(content))
    with pytest.raises(BadInputError, match=message):
        read_image(tmp_path / "in.nii")


@pytest.mark.slow
def test_a_gzip_is_not_unpacked_beyond_what_its_header_needs(tmp_path, monkeypatch):
    bomb = gzip.compress(header_with() + bytes(12 * 10 * 3 * 2) + bytes(200 << 20), 1)
    (tmp_path / "in.nii.gz").write_bytes(bomb)
    unpacked = []
    real = gzip.GzipFile.read

    def counted(self, size=-1):
        content = real(self, size)
        unpacked.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    assert read_stack(tmp_path / "in.nii.gz").count == 3
    assert sum(unpacked) < 3 << 20


@pytest.mark.parametrize(
    "content",
    [gzip.compress(bytes(4096)), gzip.compress(b"x" * 500)[:-9], b"\x1f\x8b" + bytes(100)],
    ids=["zeros", "cut off", "magic alone"],
)
def test_other_gzips_are_refused(tmp_path, content):
    (tmp_path / "in.nii.gz").write_bytes(content)
    with pytest.raises(BadInputError, match="no known format|cannot be read"):
        read_image(tmp_path / "in.nii.gz")
