"""DICOM files for tests: small, made from those that pydicom's wheel brings, and encoded with the codecs' own libraries."""

import warnings
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from client.dicom_derived import Derivation
from client.images import write_stack
from client.origin import ImageStack, Provenance

PROVENANCE = Provenance("base", 25 / 255, "crypten")


def sample(name: str) -> Path:
    """A file of pydicom's wheel; nothing is downloaded."""
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str), name
    return Path(found)


def small_ct(**changes: object) -> Dataset:
    """The small CT of pydicom, uncompressed: signed, 16 bits, slope 1, intercept -1024; None deletes an element."""
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def with_pixels(dataset: Dataset, words: np.ndarray, **changes: object) -> Dataset:
    """Another plane, or frames of planes, of 8 or 16 bits."""
    dataset.Rows, dataset.Columns = words.shape[-2:]
    dataset.BitsAllocated = words.dtype.itemsize * 8
    dataset.BitsStored = int(changes.get("BitsStored", dataset.BitsAllocated))  # type: ignore[call-overload]
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(words.dtype.kind == "i")
    if words.ndim == 3:
        dataset.NumberOfFrames = len(words)
    content = words.astype(words.dtype.newbyteorder("<")).tobytes()
    kind = "OB" if words.itemsize == 1 else "OW"
    dataset[0x7FE0, 0x0010] = pydicom.DataElement(0x7FE00010, kind, content + bytes(len(content) % 2))
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def write(path: Path, dataset: Dataset) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path)
    return path


def write_encapsulated(path: Path, dataset: Dataset, frames: list[bytes], syntax: str) -> Path:
    """Compressed frames, as they are given, under a transfer syntax."""
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    return write(path, dataset)


def jpeg_lossless(source: Path, target: Path, kind: int) -> Path:
    """Compress with GDCM. kind: one of gdcm.TransferSyntax's."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def write_untouched(path: Path, stack: ImageStack, derivation: Derivation | None = None) -> Path:
    """The result of a network that changes nothing."""
    write_stack(path, [image.pixels for image in stack], stack, [PROVENANCE] * stack.count, derivation or Derivation.fresh())
    return path


def write_series(folder: Path, count: int = 4, **changes: object) -> Path:
    """Slices of one series, whose file names run against the order of space, and which a number orders in neither way."""
    folder.mkdir()
    series = generate_uid()
    for index in range(count):
        dataset = small_ct(**changes)
        words = dataset.pixel_array[:16, :16].astype("<i2") + 100 * index
        with_pixels(dataset, words)
        dataset.SeriesInstanceUID = series
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.ImagePositionPatient = [0.0, 0.0, 5.0 * index]
        dataset.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        dataset.InstanceNumber = (index * 2) % count + 1
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        write(folder / f"IM.{count - index:03d}", dataset)
    return folder
