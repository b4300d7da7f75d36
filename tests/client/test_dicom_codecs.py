import contextlib
import io

import numpy as np
import pydicom
import pytest
from gdcm import TransferSyntax
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from client import dicom_codecs
from client.dicom_codecs import CODECS, codestream_size
from client.images import read_image, read_stack
from protocols.errors import BadInputError, ConfigurationError
from tests.client.dicom_files import (
    jpeg_lossless,
    sample,
    small_ct,
    with_pixels,
    write,
    write_encapsulated,
    write_untouched,
)

LOSSLESS = [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLossless, JPEGLosslessSV1]


def ramp(dtype, bits, frames=1):
    """Values from the lowest to the highest that the stored bits hold."""
    low = -(1 << (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    count = frames * 40 * 48
    values = (np.arange(count) * 7919 % count) * ((1 << bits) - 1) // (count - 1) + low
    return values.reshape(frames, 40, 48).astype(dtype)[0 if frames == 1 else slice(None)]


def compressed(path, dataset, syntax):
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        plain = write(path.with_suffix(".plain"), dataset)
        kind = TransferSyntax.JPEGLosslessProcess14 if syntax == JPEGLossless else TransferSyntax.JPEGLosslessProcess14_1
        return jpeg_lossless(plain, path, kind)
    dataset.compress(syntax, generate_instance_uid=False)
    return write(path, dataset)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 10), ("u2", 12), ("u2", 16), ("i2", 12), ("i2", 16)])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name[:30])
def test_every_lossless_syntax_gives_the_stored_values_back_exactly(tmp_path, syntax, dtype, bits, photometric):
    words = ramp(dtype, bits)
    dataset = with_pixels(small_ct(PixelPaddingValue=None), words, BitsStored=bits, PhotometricInterpretation=photometric)
    path = compressed(tmp_path / "in.dcm", dataset, syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    stack = read_stack(path)
    grey = (words.astype(float) - words.min()) / (1 << bits)
    assert np.allclose(stack.plane(0).pixels, 1.0 - grey if photometric == "MONOCHROME1" else grey, atol=2 / (1 << bits))
    found = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", stack))
    assert not found.file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(found.pixel_array, words)
    assert "LossyImageCompression" not in found


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name[:30])
def test_frames_are_decoded_each_by_itself(tmp_path, syntax):
    words = ramp("u2", 12, frames=3)
    path = compressed(tmp_path / "in.dcm", with_pixels(small_ct(PixelPaddingValue=None), words, BitsStored=12), syntax)
    stack = read_stack(path)
    assert stack.count == 3
    assert np.array_equal(pydicom.dcmread(write_untouched(tmp_path / "out.dcm", stack)).pixel_array, words)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("emri_small_RLE.dcm", "emri_small.dcm"),
        ("emri_small_jpeg_2k_lossless.dcm", "emri_small.dcm"),
        ("emri_small_jpeg_ls_lossless.dcm", "emri_small.dcm"),
    ],
)
def test_files_of_other_writers_equal_their_uncompressed_twins(name, twin):
    ours, plain = read_stack(sample(name)), read_stack(sample(twin))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(ours, plain, strict=True))


def test_a_sign_that_the_codestream_contradicts_is_the_headers(tmp_path):
    path = sample("J2K_pixelrep_mismatch.dcm")
    found = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(path)))
    assert np.array_equal(found.pixel_array, pydicom.dcmread(path).pixel_array)
    assert found.pixel_array.min() < 0


def jpeg_baseline(path, words):
    out = io.BytesIO()
    Image.fromarray(words).save(out, format="JPEG", quality=90)
    dataset = with_pixels(small_ct(PixelPaddingValue=None), words)
    return write_encapsulated(path, dataset, [out.getvalue()], JPEGBaseline8Bit)


def test_jpeg_baseline_is_read_and_its_loss_declared_from_then_on(tmp_path):
    words = np.add.outer(np.arange(32), np.arange(40)).astype("u1") * 3
    path = jpeg_baseline(tmp_path / "in.dcm", words)
    assert np.abs(pydicom.dcmread(path).pixel_array.astype(int) - words).max() < 8
    found = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(path)))
    assert np.array_equal(found.pixel_array, pydicom.dcmread(path).pixel_array)
    assert (found.LossyImageCompression, found.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert 1 < float(found.LossyImageCompressionRatio) < 10


def test_lossy_history_is_kept_and_the_files_own_step_is_added(tmp_path):
    path = sample("JPEG2000.dcm")
    source = pydicom.dcmread(path)
    found = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(path)))
    assert found.LossyImageCompression == source.LossyImageCompression == "01"
    assert found.LossyImageCompressionRatio == source.LossyImageCompressionRatio  # which has this step's already
    assert found.LossyImageCompressionMethod == "ISO_15444_1"
    again = pydicom.dcmread(write_untouched(tmp_path / "again.dcm", read_stack(tmp_path / "out.dcm")))
    assert again.LossyImageCompressionMethod == "ISO_15444_1"
    near = pydicom.dcmread(write_untouched(tmp_path / "near.dcm", read_stack(sample("JPEGLSNearLossless_16.dcm"))))
    assert (near.LossyImageCompression, near.LossyImageCompressionMethod) == ("01", "ISO_14495_1")


def test_jpeg_2000_that_says_it_lost_nothing_is_believed(tmp_path):
    words = ramp("u2", 12)
    dataset = with_pixels(small_ct(PixelPaddingValue=None), words, BitsStored=12, LossyImageCompression="00")
    path = compressed(tmp_path / "in.dcm", dataset, JPEG2000Lossless)
    dataset.file_meta.TransferSyntaxUID = JPEG2000
    found = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(write(path, dataset))))
    assert found.LossyImageCompression == "00"


def encapsulated(syntax, tmp_path):
    """A compressed file and its one frame."""
    path = compressed(
        tmp_path / "whole.dcm", with_pixels(small_ct(PixelPaddingValue=None), ramp("u2", 12), BitsStored=12), syntax
    )
    dataset = pydicom.dcmread(path)
    return dataset, next(generate_frames(dataset.PixelData, number_of_frames=1))


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name[:30])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_a_frame_that_is_cut_short_is_refused(tmp_path, syntax, part):
    dataset, frame = encapsulated(syntax, tmp_path)
    path = write_encapsulated(tmp_path / "in.dcm", dataset, [frame[: int(len(frame) * part)] or b"\0\0"], syntax)
    with pytest.raises(BadInputError, match="cut short|damaged|well-formed"):
        read_image(path)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name[:30])
@pytest.mark.parametrize("seed", range(5))
def test_damaged_frames_are_refused_or_read_but_never_crash(tmp_path, syntax, seed):
    dataset, frame = encapsulated(syntax, tmp_path)
    randomness = np.random.default_rng(seed)
    broken = bytearray(frame)
    for _ in range(3):
        broken[randomness.integers(len(broken))] = randomness.integers(256)
    path = write_encapsulated(tmp_path / "in.dcm", dataset, [bytes(broken)], syntax)
    with contextlib.suppress(BadInputError):  # anything else fails the test
        assert read_image(path).pixels.shape == (40, 48)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLossless, JPEGLosslessSV1], ids=lambda s: s.name[:30])
def test_a_size_that_is_not_the_headers_is_refused_before_a_decoder_sees_it(tmp_path, syntax, monkeypatch):
    dataset, frame = encapsulated(syntax, tmp_path)
    assert codestream_size(frame) == (40, 48, 1)
    if syntax == JPEG2000Lossless:
        huge = frame.replace((48).to_bytes(4) + (40).to_bytes(4), b"\x7f\xff\xff\xff\x7f\xff\xff\xff", 1)
    else:
        huge = frame.replace((40).to_bytes(2) + (48).to_bytes(2), b"\xff\xff\xff\xff", 1)
    assert huge != frame
    path = write_encapsulated(tmp_path / "in.dcm", dataset, [huge], syntax)
    monkeypatch.setattr(dicom_codecs, "get_decoder", Sighted(dicom_codecs.get_decoder))
    with pytest.raises(BadInputError, match="declares .* and the header 40x48"):
        read_image(path)


class Sighted:
    """Stands for pydicom's table of decoders, and fails the test if one is asked to decode."""

    def __init__(self, real):
        self._real = real

    def __call__(self, syntax):
        decoder = self._real(syntax)

        class Closed:
            available_plugins = decoder.available_plugins

            def iter_array(self, *_arguments, **_options):
                raise AssertionError("a decoder was asked")

        return Closed()


def test_frames_that_are_missing_are_told(tmp_path):
    dataset, frame = encapsulated(JPEG2000Lossless, tmp_path)
    dataset.NumberOfFrames = 3
    path = write_encapsulated(tmp_path / "in.dcm", dataset, [frame, frame], JPEG2000Lossless)
    with pytest.raises(BadInputError, match="cut short|damaged|well-formed"):
        read_stack(path)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1], ids=lambda syntax: syntax.name[:30])
def test_a_missing_decoder_is_named_with_the_command_that_installs_it(tmp_path, syntax, monkeypatch):
    path = compressed(tmp_path / "in.dcm", with_pixels(small_ct(), ramp("u2", 12), BitsStored=12), syntax)

    class Nothing:
        available_plugins = ("pylibjpeg-libjpeg",)  # one under the GPL is no substitute

    monkeypatch.setattr(dicom_codecs, "get_decoder", lambda _syntax: Nothing())
    message = rf"{CODECS[syntax].package} is not installed. Run: pip install 'darkroom\[codecs\]'"
    with pytest.raises(ConfigurationError, match=message):
        read_image(path)


def test_no_decoder_is_under_the_gpl():
    assert {codec.package for codec in CODECS.values()} == {"pydicom", "pylibjpeg-openjpeg", "pyjpegls", "python-gdcm"}
    assert JPEGLSNearLossless in CODECS
