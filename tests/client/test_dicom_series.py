import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from client.images import check_stack_output, read_stack
from protocols.errors import BadInputError, ConfigurationError
from tests.client.dicom_files import small_ct, write, write_series, write_untouched


def slices(folder):
    return {path.name: pydicom.dcmread(path) for path in folder.iterdir()}


def test_slices_are_in_the_order_of_space_whatever_names_and_numbers_say(tmp_path):
    stack = read_stack(write_series(tmp_path / "series"))
    assert stack.files == ("IM.004", "IM.003", "IM.002", "IM.001")
    means = [float(image.pixels.mean()) for image in stack]
    assert means == sorted(means)


def test_without_positions_the_numbers_order_and_without_numbers_the_names(tmp_path):
    folder = write_series(tmp_path / "series")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient
        write(path, dataset)
    numbers = {name: dataset.InstanceNumber for name, dataset in slices(folder).items()}
    assert read_stack(folder).files == tuple(sorted(numbers, key=lambda name: (numbers[name], name)))
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.InstanceNumber
        write(path, dataset)
    assert read_stack(folder).files == ("IM.001", "IM.002", "IM.003", "IM.004")


def test_equal_values_have_equal_grey_levels_in_every_slice(tmp_path):
    folder = write_series(tmp_path / "series")
    stack = read_stack(folder)
    values, greys = [], []
    for name, image in zip(stack.files, stack, strict=True):
        values.append(pydicom.dcmread(folder / name).pixel_array.ravel())
        greys.append(image.pixels.numpy().ravel())
    flat, grey = np.concatenate(values), np.concatenate(greys)
    assert (grey.min(), grey.max()) == (0.0, 1.0)  # of the series, not of each slice
    assert np.allclose(grey, (flat - flat.min()) / (flat.max() - flat.min()))


def test_the_result_is_a_folder_of_one_new_series(tmp_path):
    folder = write_series(tmp_path / "series")
    write_untouched(tmp_path / "out", read_stack(folder))
    before, after = slices(folder), slices(tmp_path / "out")
    assert sorted(after) == [f"{name}.dcm" for name in sorted(before)]
    assert len({dataset.SeriesInstanceUID for dataset in after.values()}) == 1
    assert len({dataset.SOPInstanceUID for dataset in after.values()}) == 4
    for name, source in before.items():
        found = after[f"{name}.dcm"]
        assert np.array_equal(found.pixel_array, source.pixel_array)
        assert found.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert found.ImagePositionPatient == source.ImagePositionPatient


def test_other_files_are_passed_over(tmp_path):
    folder = write_series(tmp_path / "series")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden").write_bytes(b"x")
    assert read_stack(folder).count == 4


def test_what_is_not_one_series_is_refused(tmp_path):
    folder = write_series(tmp_path / "two")
    write(folder / "other.dcm", small_ct(SeriesInstanceUID=generate_uid()))
    with pytest.raises(BadInputError, match="holds 2 series"):
        read_stack(folder)
    folder = write_series(tmp_path / "sizes")
    uid = pydicom.dcmread(folder / "IM.001").SeriesInstanceUID
    write(folder / "scout.dcm", small_ct(SeriesInstanceUID=uid))
    with pytest.raises(BadInputError, match="scout.dcm is 128x128, IM.001 is 16x16"):
        read_stack(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="holds no DICOM file"):
        read_stack(tmp_path / "empty")


def test_outputs_of_a_series(tmp_path):
    stack = read_stack(write_series(tmp_path / "series"))
    with pytest.raises(BadInputError, match="can be a folder, .npy"):
        check_stack_output(tmp_path / "out.dcm", stack)
    with pytest.raises(ConfigurationError, match="exists already"):
        check_stack_output(tmp_path / "series", stack)
    check_stack_output(tmp_path / "new", stack)
    write_untouched(tmp_path / "out.npy", stack)
    assert np.load(tmp_path / "out.npy").shape == (4, 16, 16)


def test_an_interrupted_write_leaves_no_folder(tmp_path, monkeypatch):
    stack = read_stack(write_series(tmp_path / "series"))

    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("client.images.derived_dicom", stop)
    with pytest.raises(KeyboardInterrupt):
        write_untouched(tmp_path / "out", stack)
    assert [path.name for path in tmp_path.iterdir()] == ["series"]
