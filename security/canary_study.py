"""A study whose canaries are in names of files and folders, in a DICOM series, and in the texts of a NIfTI volume.

    batch/       for `darkroom denoise DIR`: a folder, a DICOM and a NIfTI volume, each with a name of its own to search for
    series/      for `darkroom denoise DIR --series`: so are the names of its slices

The names of `batch` and `series` stand on a command line, so they are nobody's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import nibabel
import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from security.needles import Needle, text_needles

NAMES: Final = {
    "folder name": "CANARY-FOLDER-5523",
    "DICOM file name": "CANARY-DICOM-FILE-8812",
    "NIfTI file name": "CANARY-NIFTI-FILE-3391",
    "series file name": "CANARY-SLICE-FILE-6604",
}
NIFTI_TEXTS: Final = {  # as long as their fields allow: 80, 24 and 16 bytes
    "NIfTI descrip": "CANARY DESCRIP of the left knee, 1977-11-22",
    "NIfTI aux_file": "CANARY-AUX-FILE.lst",
    "NIfTI intent_name": "CANARY-INTENT-77",
}
SERIES_TEXTS: Final = {"SeriesDescription": "CANARY SERIES TEXT", "AccessionNumber": "CANARY-ACC-4455"}
SLICES: Final = 2
SIDE: Final = 16


def write_canary_study(folder: Path, header: Mapping[str, str]) -> None:
    """Make batch/ and series/ under `folder`. header: texts for every DICOM, by keyword, beside our own."""
    texts = {**header, **SERIES_TEXTS}
    batch, series = folder / "batch", folder / "series"
    named = batch / NAMES["folder name"]
    named.mkdir(parents=True)
    series.mkdir()
    _slice(texts, 0).save_as(named / f"{NAMES['DICOM file name']}.dcm")
    uid = generate_uid()
    for index in range(SLICES):
        dataset = _slice(texts, index)
        dataset.SeriesInstanceUID = uid
        dataset.save_as(series / f"{NAMES['series file name']}-{index}.dcm")
    voxels = np.random.default_rng(9).integers(0, 3000, (SIDE, SIDE, SLICES)).astype("i2")
    volume = nibabel.Nifti1Image(voxels, np.diag([0.9, 1.1, 2.5, 1.0]))
    for field, text in NIFTI_TEXTS.items():
        volume.header[field.removeprefix("NIfTI ")] = text.encode()
    volume.to_filename(named / f"{NAMES['NIfTI file name']}.nii.gz")


def study_text_needles() -> list[Needle]:
    """Texts of headers: they are shown nowhere."""
    return [needle for secret, text in (NIFTI_TEXTS | SERIES_TEXTS).items() for needle in text_needles(secret, text)]


def study_name_needles() -> list[Needle]:
    """Names of files and folders: the hospital's own commands print them."""
    return [needle for secret, text in NAMES.items() for needle in text_needles(secret, text)]


def _slice(texts: Mapping[str, str], index: int) -> pydicom.FileDataset:
    """A corner of the small CT of pydicom with noise on every pixel, as slice `index` of a series."""
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    noise = np.random.default_rng(index).integers(0, 900, (SIDE, SIDE))
    dataset.PixelData = (dataset.pixel_array[:SIDE, :SIDE].astype(np.int64) + noise).astype("<i2").tobytes()
    dataset.Rows = dataset.Columns = SIDE
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.ImagePositionPatient = [0.0, 0.0, 5.0 * index]
    dataset.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    dataset.InstanceNumber = index + 1
    for keyword, text in texts.items():
        setattr(dataset, keyword, text)
    return dataset
