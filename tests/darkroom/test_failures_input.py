"""What is no image that can be processed: exit code 3, one sentence that names the file, and nothing written or sent."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from darkroom.provision import Site
from tests.darkroom.test_cli import site  # noqa: F401 - a fixture
from tests.darkroom_command import Darkroom

HEADER_BYTES = 128


def npy(path: Path, array: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> None:
    with path.open("wb") as file:
        np.save(file, array)


def spoiled(value: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    array = np.full((16, 16), 0.5)
    array[3, 5] = value
    return array


def claiming(path: Path, shape: tuple[int, int], size: int) -> None:
    """A header that states a shape, and a file of that size with no pixel in it (sparse)."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.truncate(size)


def cut_short(path: Path) -> None:
    npy(path, np.full((64, 64), 0.5))
    with path.open("rb+") as file:
        file.truncate(HEADER_BYTES + 100)


def cut_dicom(path: Path) -> None:
    source = get_testdata_file("examples_overlay.dcm", download=False)
    assert isinstance(source, str)
    shutil.copy(source, path)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)


FILES: dict[str, Callable[[Path], None]] = {
    "not an image": lambda path: path.write_text("To whom it may concern") and None,
    "empty": lambda path: path.write_bytes(b"") and None,
    "a folder": Path.mkdir,
    "a truncated .npy": cut_short,
    "a truncated DICOM": cut_dicom,
    "NaN": lambda path: npy(path, spoiled(np.nan)),
    "infinite": lambda path: npy(path, spoiled(-np.inf)),
    "4x4": lambda path: npy(path, np.full((4, 4), 0.5)),
    "100,000x100,000, all there": lambda path: claiming(path, (100_000, 100_000), HEADER_BYTES + 4 * 100_000**2),
    "100,000x100,000, by its header alone": lambda path: claiming(path, (100_000, 100_000), HEADER_BYTES),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_image(darkroom: Darkroom, site: Site, tmp_path: Path, what: str) -> None:  # noqa: F811
    path, out = tmp_path / "scan", tmp_path / "out.npy"
    FILES[what](path)
    before = sorted(site.root.rglob("*"))
    for command in (("store", path), ("denoise", path, "-o", out)):
        done = darkroom(*command, "--config", site.root / "hospital.toml")
        assert (done.returncode, done.stdout) == (3, ""), done.stderr
        assert done.stderr.startswith(f"darkroom: {path}")
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr
    assert not out.exists()
    assert sorted(site.root.rglob("*")) == before
