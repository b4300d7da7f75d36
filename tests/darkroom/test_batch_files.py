"""Which files of a folder are denoised, and where results go."""

import os
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from darkroom.batch_files import find_images, shown
from protocols.errors import BadInputError

DICOM = b"\x00" * 128 + b"DICM"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    (made / "b" / "deep").mkdir(parents=True)
    return made


def found(folder: Path, output: Path) -> dict[str, str]:
    """By file name: its result, or why there is none."""
    return {image.name: image.output or image.no_image or image.refused for image in find_images(folder, output)}


def test_results_lie_where_sources_do_and_are_named_by_content(folder: Path, tmp_path: Path) -> None:
    (folder / "IM1").write_bytes(DICOM)
    (folder / "b" / "scan.DCM").write_bytes(DICOM)
    (folder / "b" / "deep" / "scan.ima").write_bytes(DICOM)
    np.save(folder / "array.npy", np.zeros((8, 8), np.float32))
    (folder / "array.npy").rename(folder / "array.dcm")
    assert found(folder, tmp_path / "out") == {
        "IM1": "IM1.dcm",
        "array.dcm": "array.dcm.npy",
        "b/scan.DCM": "b/scan.DCM",
        "b/deep/scan.ima": "b/deep/scan.ima.dcm",
    }


def test_other_forms_keep_their_names(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.TIF", "c.nii.gz", "d.nii", "e.jpg"):
        (folder / name).write_bytes(b"content")
    assert found(folder, tmp_path / "out") == {
        "a.png": "a.png",
        "b.TIF": "b.TIF",
        "c.nii.gz": "c.nii.gz",
        "d.nii": "d.nii",
        "e.jpg": "e.jpg.npy",
    }


def test_what_is_no_image_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "empty.dcm").touch()
    os.mkfifo(folder / "pipe")
    (folder / "gone.dcm").symlink_to(tmp_path / "nothing")
    (folder / "round").symlink_to(folder)
    (folder / "DICOMDIR").write_bytes(Path(get_testdata_file("DICOMDIR")).read_bytes())
    (folder / "report").write_bytes(Path(get_testdata_file("test-SR.dcm")).read_bytes())
    reasons = found(folder, tmp_path / "out")
    assert reasons == {
        ".DS_Store": "a hidden file",
        "empty.dcm": "an empty file",
        "pipe": "not a regular file",
        "gone.dcm": "a link to nothing, or gone meanwhile",
        "round": "a link to a folder, which is not followed",
        "DICOMDIR": "an index of DICOM files (DICOMDIR)",
        "report": reasons["report"],
    }
    assert "SR Storage" in reasons["report"]


def test_a_linked_file_is_an_image(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(DICOM)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert found(folder, tmp_path / "out") == {"link": "link.dcm"}


def test_two_sources_of_one_result(folder: Path, tmp_path: Path) -> None:
    (folder / "a").write_bytes(DICOM)
    (folder / "a.dcm").write_bytes(DICOM)
    images = {image.name: image for image in find_images(folder, tmp_path / "out")}
    assert images["a.dcm"].output == "a.dcm"
    assert "replace that of a.dcm" in images["a"].refused


def test_a_name_that_would_be_too_long(folder: Path, tmp_path: Path) -> None:
    (folder / ("x" * 252)).write_bytes(DICOM)
    assert all("255 bytes" in reason for reason in found(folder, tmp_path / "out").values())


def test_output_inside_the_folder_is_left_out(folder: Path) -> None:
    (folder / "a.dcm").write_bytes(DICOM)
    (folder / "out").mkdir()
    (folder / "out" / "a.dcm").write_bytes(DICOM)
    assert found(folder, folder / "out") == {"a.dcm": "a.dcm"}


@pytest.mark.parametrize("place", [".", "..", "../in"])
def test_output_that_would_replace_sources(folder: Path, place: str) -> None:
    with pytest.raises(BadInputError, match="holds it"):
        find_images(folder, folder / place)


def test_a_damaged_file_meta_is_left_to_the_reader(folder: Path, tmp_path: Path) -> None:
    (folder / "a.dcm").write_bytes(DICOM + b"\x02\x00\x00\x00UL\xff\xff")
    assert found(folder, tmp_path / "out") == {"a.dcm": "a.dcm"}


def test_names_for_a_terminal() -> None:
    assert shown("Müller \x1b[31m\n\udcff.dcm") == "Müller \\x1b[31m\\n\\udcff.dcm"
