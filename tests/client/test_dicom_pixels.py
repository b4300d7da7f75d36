import numpy as np
import pydicom
import pytest
import torch

from client.dicom_pixels import PixelForm, Rescale, Span, kept_pixels, normalisations, words_of
from client.images import read_image, read_stack, write_result
from protocols.errors import BadInputError
from tests.client.dicom_files import PROVENANCE, sample, small_ct, with_pixels, write, write_untouched


def padded(**changes):
    """A gradient from 100 to 499 with padding of -2000 in a corner."""
    words = np.linspace(100, 499, 400).round().astype("i2").reshape(20, 20)
    words[:5, :5] = -2000
    return with_pixels(small_ct(), words, PixelPaddingValue=-2000, **changes), words


def test_padding_is_no_part_of_the_range_and_comes_back_exactly(tmp_path):
    dataset, words = padded()
    image = read_image(write(tmp_path / "in.dcm", dataset))
    assert image.origin.kept is not None
    assert image.origin.kept.mask.sum() == 25
    picture = image.pixels[torch.from_numpy(~image.origin.kept.mask)]
    assert (float(picture.min()), float(picture.max())) == (0.0, 1.0)
    assert float(image.pixels[0, 0]) == 0.0  # what the network sees in its place: the nearest grey level
    darker = image.pixels * 0.5 + 0.2
    write_result(tmp_path / "out.dcm", darker, image.origin, PROVENANCE)
    found = pydicom.dcmread(tmp_path / "out.dcm").pixel_array
    assert np.array_equal(found[:5, :5], words[:5, :5])
    assert not np.array_equal(found[10], words[10])
    write_result(tmp_path / "out.npy", darker, image.origin, PROVENANCE)
    grey = np.load(tmp_path / "out.npy")
    assert np.allclose(grey[0, 0] * image.normalisation.slope + image.normalisation.intercept, -2000)


def test_a_range_of_padding_is_padding(tmp_path):
    dataset, words = padded()
    dataset[0x0028, 0x0121] = pydicom.DataElement(0x00280121, "SS", -1990)
    words[0, :11] = range(-2000, -1989)
    image = read_image(write(tmp_path / "in.dcm", with_pixels(dataset, words)))
    assert image.origin.kept is not None
    assert image.origin.kept.mask[0, :11].all()
    found = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(tmp_path / "in.dcm"))).pixel_array
    assert np.array_equal(found, words)


def test_padding_written_as_an_unsigned_number_is_found_in_signed_pixels(tmp_path):
    dataset, _ = padded()
    dataset[0x0028, 0x0120] = pydicom.DataElement(0x00280120, "US", 63536)  # 65536 - 2000, as some scanners write it
    kept = read_image(write(tmp_path / "in.dcm", dataset)).origin.kept
    assert kept is not None
    assert kept.mask.sum() == 25


def test_a_result_never_becomes_padding(tmp_path):
    """A grey level that rounds to a padding value would be blanked by viewers: it goes to the nearest level that is none."""
    form = PixelForm(1, 6, 16, 16, 15, signed=True, inverted=False, padding=(-3, 2))
    values = np.array([[-3.0, -2.0, 0.0, 2.0, -5.0, 7.0]])
    assert np.frombuffer(words_of(values, form, None), "<i2").tolist() == [-4, -4, 3, 3, -5, 7]
    lowest = PixelForm(1, 3, 8, 8, 7, signed=False, inverted=False, padding=(0, 2))
    assert np.frombuffer(words_of(np.array([[0.0, 1.0, 3.0]]), lowest, None), "u1").tolist() == [3, 3, 3]
    highest = PixelForm(1, 2, 8, 8, 7, signed=False, inverted=False, padding=(254, 255))
    assert np.frombuffer(words_of(np.array([[254.6, 300.0]]), highest, None), "u1").tolist() == [253, 253]


@pytest.mark.parametrize("value", [0xF000, 0x8123])
def test_a_word_outside_the_stored_range_is_kept_and_not_cut(tmp_path, value):
    """12 stored bits, and a writer that marks what the detector did not see by larger numbers."""
    words = np.linspace(10, 3000, 400).round().astype("u2").reshape(20, 20)
    words[3, 4:9] = value
    path = write(tmp_path / "in.dcm", with_pixels(small_ct(PixelPaddingValue=None), words, BitsStored=12))
    image = read_image(path)
    assert image.origin.kept is not None
    assert image.origin.kept.mask.sum() == 5
    write_result(tmp_path / "out.dcm", image.pixels * 0.5, image.origin, PROVENANCE)
    found = pydicom.dcmread(tmp_path / "out.dcm")
    raw = np.frombuffer(found.PixelData, "<u2").reshape(20, 20)
    assert raw[3, 4:9].tolist() == [value] * 5
    assert raw[10, 0] != words[10, 0]


def test_negative_values_with_empty_unused_bits_are_picture():
    form = PixelForm(1, 4, 16, 12, 11, signed=True, inverted=False)
    words = np.array([[0x0FFF, 0xFFFF, 0x0800, 0x07FF]], dtype="<u2")  # -1 twice, the lowest, the highest
    assert kept_pixels(words, form) is None


def test_results_beyond_the_stored_range_go_to_its_end_and_never_wrap():
    form = PixelForm(1, 4, 16, 12, 11, signed=True, inverted=False)
    values = np.array([[-2048.4, -9e9, 2047.4, 1e6]])
    assert np.frombuffer(words_of(values, form, None), "<i2").tolist() == [-2048, -2048, 2047, 2047]


def test_hounsfield_units_are_exact_where_nothing_changed(tmp_path):
    path = sample("CT_small.dcm")
    source = pydicom.dcmread(path)
    image = read_image(path)
    changed = image.pixels.clone()
    changed[:, 64:] = changed[:, 64:] * 0.9
    write_result(tmp_path / "out.dcm", changed, image.origin, PROVENANCE)
    found = pydicom.dcmread(tmp_path / "out.dcm")
    assert (found.RescaleSlope, found.RescaleIntercept) == (source.RescaleSlope, source.RescaleIntercept) == (1, -1024)
    before, after = (file.pixel_array * file.RescaleSlope + file.RescaleIntercept for file in (source, found))
    assert np.array_equal(after[:, :64], before[:, :64])
    assert not np.array_equal(after[:, 64:], before[:, 64:])


def test_one_rescale_changes_nothing_and_a_negative_one_turns_the_scale():
    span = Span(10.0, 110.0, Rescale(2.0, -1024.0))
    (same,) = normalisations([span], [span.rescale], inverted=False)
    assert (same.slope, same.intercept) == (100.0, 10.0)
    down = Rescale(-2.0, 5.0)
    (turned,) = normalisations([Span(10.0, 110.0, down)], [down], inverted=False)
    assert (turned.slope, turned.intercept) == (-100.0, 110.0)
    (twice,) = normalisations([Span(10.0, 110.0, down)], [down], inverted=True)
    assert (twice.slope, twice.intercept) == (100.0, 10.0)


@pytest.mark.parametrize("inverted", [False, True])
def test_slices_of_different_rescale_share_one_scale_of_values(inverted):
    first, second = Rescale(1.0, 0.0), Rescale(0.5, 100.0)
    maps = normalisations([Span(0.0, 200.0, first), Span(0.0, 400.0, second)], [first, second], inverted=inverted)
    # 150 units: stored 150 in the first, 100 in the second
    grey = [(stored - each.intercept) / each.slope for stored, each in zip((150.0, 100.0), maps, strict=True)]
    assert grey == pytest.approx([0.5, 0.5])


def test_a_plane_of_padding_alone_has_no_range():
    (only,) = normalisations([None], [Rescale(1.0, 0.0)], inverted=False)
    assert (only.slope, only.intercept) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PixelPaddingValue": [1, 2]}, "PixelPaddingValue is not one integer"),
        ({"RescaleSlope": [1.0, 2.0]}, "RescaleSlope is not one number"),
        ({"RescaleSlope": 0.0}, "RescaleSlope is 0"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(tmp_path, changes, message):
    with pytest.raises(BadInputError, match=message):
        read_image(write(tmp_path / "in.dcm", small_ct(**changes)))
