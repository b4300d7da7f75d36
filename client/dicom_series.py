"""A folder that is one DICOM series: its slices in the order of space, all on one scale of grey levels.

Order: along the normal of the slices (ImageOrientationPatient, ImagePositionPatient), then by InstanceNumber, then by file
name. One range for the series, in the units of each slice's rescale, so that equal values stay equal from slice to slice.
Source: DICOM PS3.3 2024e, C.7.6.2 (image plane), C.7.6.1 (instance number).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from client.dicom import DicomFile, load_dicom, parsing
from client.dicom_pixels import normalisations
from client.files import require_regular
from client.origin import MAX_PLANES, MAX_STACK_PIXELS, ImageStack, Kind, SourceImage
from protocols.errors import BadInputError

PREAMBLE: Final = 128  # PS3.10, 7.1: then "DICM"
MAGIC: Final = b"DICM"
MAX_FILE_BYTES: Final = 1 << 30  # a slice, and room for a long header
_PARALLEL: Final = 1e-3  # of unit vectors' components: writers round them to some decimals


def read_series(folder: Path) -> ImageStack:
    """Read every DICOM file of a folder, which must be one series; other files are passed over. Run by the client.

    Raises BadInputError: no DICOM file, several series, slices that differ in size or hold several frames, or as `read_dicom`.
    """
    slices = _slices(folder)
    _require_one_series(slices, folder)
    slices = slice_order(slices)
    spans = [span for file in slices for span in file.spans()]
    rescale = [file.rescales[0] for file in slices]
    if len({file.form.inverted for file in slices}) != 1:
        raise BadInputError(f"{folder} mixes MONOCHROME1 and MONOCHROME2: that is not one series")
    maps = normalisations(spans, rescale, inverted=slices[0].form.inverted)

    def plane(index: int) -> SourceImage:
        return slices[index].frame(0, maps[index])

    form = slices[0].form
    names = tuple(file.name for file in slices)
    return ImageStack(Kind.DICOM, folder.name, len(slices), form.rows, form.columns, plane, names)


def slice_order(slices: Sequence[DicomFile]) -> list[DicomFile]:
    """Along the common normal where every slice has a position and all are parallel; else by number and name."""
    normals = [_normal(file.dataset.get("ImageOrientationPatient")) for file in slices]
    positions = [_numbers(file.dataset.get("ImagePositionPatient"), 3) for file in slices]
    first = normals[0]
    places = [0.0] * len(slices)
    if first is not None and all(normal is not None and np.allclose(normal, first, atol=_PARALLEL) for normal in normals):
        known = [position for position in positions if position is not None]
        if len(known) == len(slices):
            places = [round(float(first @ position), 3) for position in known]  # to a micrometre

    def key(index: int) -> tuple[float, int, str]:
        number = slices[index].dataset.get("InstanceNumber")
        return places[index], int(number) if isinstance(number, int) else 0, slices[index].name

    return [slices[index] for index in sorted(range(len(slices)), key=key)]


def _slices(folder: Path) -> list[DicomFile]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise BadInputError(f"{folder} cannot be read: {error.strerror or error}") from error
    slices: list[DicomFile] = []
    pixels = 0
    for path in paths:
        if not is_dicom(path) or path.name.upper() == "DICOMDIR":
            continue
        require_regular(path, MAX_FILE_BYTES)
        file = load_dicom(path)
        pixels += file.words.size
        slices.append(file)
        if len(slices) > MAX_PLANES or pixels > MAX_STACK_PIXELS:
            raise BadInputError(f"{folder} is too large: at most {MAX_PLANES} slices and {MAX_STACK_PIXELS} pixels in all")
    if not slices:
        raise BadInputError(f"{folder} holds no DICOM file")
    return slices


def is_dicom(path: Path) -> bool:
    """Whether a file begins as PS3.10 says. Raises BadInputError: it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}") from error


def _require_one_series(slices: Sequence[DicomFile], folder: Path) -> None:
    with parsing(folder):
        count = len({str(file.dataset.SeriesInstanceUID) for file in slices})
    if count > 1:
        raise BadInputError(f"{folder} holds {count} series: give each a folder of its own")
    first = slices[0]
    for file in slices:
        if file.form.frames > 1:
            raise BadInputError(f"{folder / file.name} has {file.form.frames} frames: denoise this file by itself")
        if (file.form.rows, file.form.columns) != (first.form.rows, first.form.columns):
            raise BadInputError(
                f"{folder / file.name} is {file.form.rows}x{file.form.columns}, {first.name} is"
                f" {first.form.rows}x{first.form.columns}: denoise the odd one by itself"
            )


def _normal(orientation: Any) -> Any:
    axes = _numbers(orientation, 6)
    return None if axes is None else np.cross(axes[:3], axes[3:])


def _numbers(value: Any, count: int) -> Any:
    """An array of so many finite numbers, or None."""
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        return None
    if not all(isinstance(part, (int, float)) and math.isfinite(part) for part in value):
        return None
    return np.array([float(part) for part in value])
