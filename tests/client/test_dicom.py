import contextlib
import copy
import logging
import warnings
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import ImplicitVRLittleEndian

from client.dicom_derived import Derivation, derived_dicom
from client.dicom_pixels import PixelForm, Rescale, normalisations, span_of, stored_values, words_of
from client.images import read_image, write_result
from client.origin import Provenance
from protocols.errors import BadInputError

PROVENANCE = Provenance("base", 25 / 255, "crypten")
OVERLAY = Path(get_testdata_file("examples_overlay.dcm"))


def read_dicom(path):
    return read_image(path)


def derived(image, **options):
    return derived_dicom([image.pixels], [image.origin], PROVENANCE, Derivation.fresh(), **options)


@pytest.fixture
def edited(tmp_path):
    """Writes the test image with some elements changed; None deletes."""

    def write(implicit=False, **changes):
        dataset = pydicom.dcmread(OVERLAY)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for keyword, value in changes.items():
                if value is None:
                    delattr(dataset, keyword)
                else:
                    setattr(dataset, keyword, value)
            dataset.file_meta.TransferSyntaxUID = changes.get(
                "syntax", ImplicitVRLittleEndian if implicit else dataset.file_meta.TransferSyntaxUID
            )
            dataset.save_as(tmp_path / "in.dcm", implicit_vr=implicit, little_endian=True)
        return tmp_path / "in.dcm"

    return write


def test_the_whole_range_of_the_values_is_mapped():
    image = read_dicom(OVERLAY)
    stored = pydicom.dcmread(OVERLAY).pixel_array
    assert np.array_equal(np.rint(image.pixels.numpy() * stored.max()), stored)
    assert (image.bits, image.height, image.width) == (12, 300, 484)
    assert image.dataset is not None
    assert "PixelData" not in image.dataset


@pytest.mark.parametrize(
    "name", ["examples_overlay.dcm", "CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm"]
)
def test_round_trip_is_exact(tmp_path, name):
    path = Path(get_testdata_file(name))
    image = read_image(path)
    write_result(tmp_path / "out.dcm", image.pixels, image.origin, PROVENANCE)
    source = pydicom.dcmread(path)
    found = pydicom.dcmread(tmp_path / "out.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the source's padding
        assert np.array_equal(found.pixel_array, source.pixel_array)
    assert torch.equal(read_image(tmp_path / "out.dcm").pixels, image.pixels)


def test_the_result_is_a_derived_image_of_a_new_series(tmp_path):
    image = read_dicom(OVERLAY)
    before = copy.deepcopy(image.dataset)
    write_result(tmp_path / "out.dcm", image.pixels, image.origin, PROVENANCE)
    source, found = pydicom.dcmread(OVERLAY), pydicom.dcmread(tmp_path / "out.dcm")
    assert found.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID != source.SOPInstanceUID
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    assert found.StudyInstanceUID == source.StudyInstanceUID
    assert list(found.ImageType[:3]) == ["DERIVED", "PRIMARY", "MPR"]
    assert found.DerivationDescription == "Denoised by Darkroom: model base, sigma 25/255, engine crypten"
    assert found.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert found.SeriesDescription.endswith("denoised (Darkroom)")
    assert found[0x6000, 0x3000].value == source[0x6000, 0x3000].value  # the overlay is of the same plane
    assert found.WindowCenter == source.WindowCenter
    assert image.dataset == before


def test_two_results_of_one_source_are_two_instances():
    image = read_dicom(OVERLAY)
    now = datetime(2026, 1, 2, 3, 4, 5)
    parsed = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(derived(image, now=now))) for _ in "ab"]
    assert parsed[0].SOPInstanceUID != parsed[1].SOPInstanceUID
    assert parsed[0].InstanceCreationTime == "030405"


def test_results_are_clipped_to_the_stored_range(tmp_path):
    image = read_dicom(OVERLAY)
    pixels = image.pixels.clone()
    pixels[0, :4] = torch.tensor([-0.5, 5.0, 0.5, 1.5])
    write_result(tmp_path / "out.dcm", pixels, image.origin, PROVENANCE)
    largest = int(pydicom.dcmread(OVERLAY).pixel_array.max())  # 1123: within the 12 bits there is room above it
    written = pydicom.dcmread(tmp_path / "out.dcm").pixel_array[0, :4]
    assert list(written) == [0, 4095, np.rint(0.5 * largest), np.rint(1.5 * largest)]


def test_monochrome1_is_turned_and_turned_back(edited, tmp_path):
    path = edited(PhotometricInterpretation="MONOCHROME1")
    image = read_dicom(path)
    assert torch.allclose(image.pixels, 1.0 - read_dicom(OVERLAY).pixels)
    write_result(tmp_path / "out.dcm", image.pixels, image.origin, PROVENANCE)
    assert np.array_equal(pydicom.dcmread(tmp_path / "out.dcm").pixel_array, pydicom.dcmread(OVERLAY).pixel_array)


def test_overlays_hidden_in_pixel_bits_are_dropped_and_do_not_disturb(edited):
    stored = pydicom.dcmread(OVERLAY).pixel_array
    raw = (stored.astype("<u2") | (0x8000 * (stored % 2)).astype("<u2")).tobytes()
    path = edited(PixelData=raw)
    dataset = pydicom.dcmread(path)
    del dataset[0x6000, 0x3000]
    dataset.save_as(path)
    image = read_dicom(path)
    assert torch.equal(image.pixels, read_dicom(OVERLAY).pixels)
    found = pydicom.dcmread(pydicom.filebase.DicomBytesIO(derived(image)))
    assert not [tag for tag in found.keys() if tag.group == 0x6000]  # noqa: SIM118


@given(
    st.sampled_from([(8, 8, 7), (16, 8, 7), (16, 12, 11), (16, 12, 15), (16, 16, 15)]),
    st.booleans(),
    st.booleans(),
    st.binary(min_size=16 * 8, max_size=16 * 8),
)
def test_unpacking_and_packing_agree_for_every_form(bits, signed, inverted, raw):
    allocated, stored, high_bit = bits
    form = PixelForm(8, 64 // allocated, allocated, stored, high_bit, signed, inverted, embedded=True)
    words = np.frombuffer(raw, dtype=form.dtype).reshape(8, -1)
    values = stored_values(words, form)
    assert form.low <= values.min()
    assert values.max() <= form.high
    identity = Rescale(1.0, 0.0)
    (back,) = normalisations([span_of(words, form, identity)], [identity], inverted=inverted)
    pixels = (values - back.intercept) / back.slope
    assert (pixels.min(), pixels.max()) == ((0.0, 1.0) if values.min() < values.max() else (0.0, 0.0))
    low_aligned = PixelForm(8, 64 // allocated, allocated, stored, stored - 1, signed, inverted)
    written = words_of(pixels * back.slope + back.intercept, low_aligned, None)
    assert np.array_equal(stored_values(np.frombuffer(written, dtype=form.dtype).reshape(8, -1), low_aligned), values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Rows": 65535, "Columns": 65535}, "65535x65535"),
        ({"Rows": 7}, "7x484"),
        ({"Rows": 301}, "cut short"),
        ({"Rows": None}, "Rows is missing"),
        ({"Rows": [300, 300]}, "Rows is not one integer"),
        ({"NumberOfFrames": 2}, "2 frames of 300x484 needs"),
        ({"NumberOfFrames": 0}, "has 0 frames"),
        ({"NumberOfFrames": 16385}, "has 16385 frames"),
        ({"NumberOfFrames": 16000}, "16000 frames"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0"),
        ({"SamplesPerPixel": 3}, "3 samples"),
        ({"PhotometricInterpretation": "RGB"}, "RGB"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE"),
        ({"BitsAllocated": 32}, "12 bits stored in 32"),
        ({"BitsStored": 7}, "7 bits stored"),
        ({"HighBit": 16}, "high bit 16"),
        ({"PixelRepresentation": 2}, "PixelRepresentation is 2"),
        ({"PixelData": b""}, "cut short"),
        ({"PixelData": None}, "no PixelData"),
        ({"SOPInstanceUID": None}, "well-formed"),
    ],
)
def test_what_is_not_supported_is_refused_in_words(edited, changes, message):
    with pytest.raises(BadInputError, match=message):
        read_image(edited(**changes))


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("MR_small_bigendian.dcm", "Big Endian"),
        ("image_dfl.dcm", "Deflated"),
    ],
)
def test_other_transfer_syntaxes_are_refused_by_name_before_anything_is_unpacked(name, syntax, monkeypatch):
    monkeypatch.setattr(pydicom, "dcmread", None)
    with pytest.raises(BadInputError, match=f"the transfer syntax is .*{syntax}"):
        read_image(Path(get_testdata_file(name)))


def test_no_header_value_reaches_log_or_warnings(tmp_path, caplog, recwarn):
    dataset = pydicom.dcmread(OVERLAY)
    raw = OVERLAY.read_bytes()
    name = str(dataset.PatientID).encode()
    assert raw.count(name) >= 1
    (tmp_path / "in.dcm").write_bytes(raw.replace(b"UI", b"DS", 40).replace(b"1.2.840.10008.5", b"DOE^JOHN.\\SECRET"[:15]))
    with caplog.at_level(logging.DEBUG):
        for path in (tmp_path / "in.dcm", Path(get_testdata_file("badVR.dcm")), OVERLAY):
            with contextlib.suppress(BadInputError):
                image = read_image(path)
                derived(image)
    assert caplog.records == []
    assert list(recwarn) == []


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path, seed):
    raw = bytearray(Path(get_testdata_file("MR_small.dcm")).read_bytes())
    randomness = np.random.default_rng(seed)
    if seed % 4 == 0:
        raw = raw[: randomness.integers(132, len(raw))]
    for _ in range(20):
        raw[randomness.integers(132, min(len(raw), 1600))] = randomness.integers(256)
    (tmp_path / "in.dcm").write_bytes(raw)
    with contextlib.suppress(BadInputError):  # anything else fails the test
        image = read_image(tmp_path / "in.dcm")
        derived(image)
