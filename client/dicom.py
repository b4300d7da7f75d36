"""DICOM in: monochrome planes of one file, uncompressed or compressed; the range that its values span is mapped to [0, 1].

Not the range that the bits could hold: a 16-bit file of 2,000 grey levels would be a sliver of it, and a noise level would
mean nothing. Nothing is cut off. The map is a matter of the image, so it stays at the hospital. All frames of a file, and all
files of a series (`client.dicom_series`), share one range: equal values keep equal grey levels.
It maps *stored* values (DICOM PS3.3, C.7.6.3.1), so the modality and VOI transformations of the header fit the
result as they fit the source. Assumes nothing about the file: it is hostile until checked.
"""

import copy
import io
import struct
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from client.dicom_codecs import CODECS, DISCRETE_COSINE, NATIVE, compressed_bytes, decode_frames, require_readable
from client.dicom_pixels import (
    SUPPORTED,
    PixelForm,
    Rescale,
    Span,
    kept_pixels,
    normalisations,
    pixel_form,
    rescales,
    span_of,
    stored_values,
)
from client.origin import ImageStack, Kind, Normalisation, Origin, SourceImage
from protocols.errors import BadInputError, DarkroomError
from protocols.unpicklable import Unpicklable

# What pydicom raises on malformed files: it parses each element when it is first read.
_MALFORMED: Final = (
    InvalidDicomError,
    BytesLengthException,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
PIXEL_DATA: Final = Tag(0x7FE0, 0x0010)


@dataclass(frozen=True, eq=False)
class DicomFile(Unpicklable):
    """One file: its words, as they are stored, and its header without them."""

    name: str = field(repr=False)
    form: PixelForm
    words: NDArray[Any] = field(repr=False)  # [frame, row, column]
    dataset: Dataset = field(repr=False)
    rescales: tuple[Rescale, ...]

    def spans(self) -> list[Span | None]:
        """Each frame's range."""
        return [span_of(words, self.form, rescale) for words, rescale in zip(self.words, self.rescales, strict=True)]

    def frame(self, index: int, normalisation: Normalisation) -> SourceImage:
        """One frame on [0, 1]."""
        words = self.words[index]
        origin = Origin(Kind.DICOM, normalisation, self.form.stored, self.name, self.dataset, kept_pixels(words, self.form))
        return SourceImage(origin.to_grey(stored_values(words, self.form)), origin)


def read_dicom(path: Path) -> ImageStack:
    """Read all planes of one file. Run by the client.

    Raises BadInputError: malformed, or a form that is not supported. ConfigurationError: a decoder is not installed.
    """
    file = load_dicom(path)
    maps = normalisations(file.spans(), file.rescales, inverted=file.form.inverted)

    def plane(index: int) -> SourceImage:
        return file.frame(index, maps[index])

    return ImageStack(Kind.DICOM, file.name, file.form.frames, file.form.rows, file.form.columns, plane)


def load_dicom(path: Path) -> DicomFile:
    """Read and decode one file. Run by the client. Raises BadInputError, ConfigurationError: as `read_dicom`."""
    where = str(path)
    with parsing(path):
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        require_readable(syntax, where)
        form = pixel_form(pydicom.dcmread(path, stop_before_pixels=True), where)
        dataset: Dataset = pydicom.dcmread(path)
        if PIXEL_DATA not in dataset:
            raise BadInputError(f"{where} has no PixelData; {SUPPORTED}")
        if syntax in NATIVE:
            words = _native_words(dataset[PIXEL_DATA].value, form, where)
        else:
            words = decode_frames(dataset, form, where)
            _declare_loss(dataset, form)
            form = replace(form, high_bit=form.stored - 1)
            dataset.HighBit = form.high_bit  # of what the decoder gives
        del dataset[PIXEL_DATA]
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if keyword in dataset:
                delattr(dataset, keyword)
        transformations = rescales(dataset, form.frames, where)
        dataset = parse_header(serialise_header(dataset))  # what cannot be written back must fail now, not after the work
    return DicomFile(path.name, form, words, dataset, transformations)


def serialise_header(dataset: Dataset) -> bytes:
    """The header as a DICOM file without pixels, Explicit VR Little Endian. Raises what pydicom raises."""
    out = io.BytesIO()
    header = copy.copy(dataset)
    header.file_meta = _meta(dataset)
    header.save_as(out, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return out.getvalue()


def parse_header(content: bytes) -> Dataset:
    """The inverse of `serialise_header`. Raises what pydicom raises."""
    return pydicom.dcmread(io.BytesIO(content))


def load_header(path: Path) -> Dataset:
    """Read the header that was put beside an object record. Run by the edge. Raises BadInputError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"the DICOM header {path} cannot be read: {error.strerror}; store the image again") from error
    with parsing(path):
        return parse_header(content)


def texts(value: Any) -> list[str]:
    """The values of an element that may hold none, one or several, as text."""
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [str(value)]
    return [str(part) for part in value]


@contextmanager
def parsing(path: Path) -> Generator[None]:
    """Turn pydicom's many errors into one. Its warnings and log lines quote header values, patients' names too: none are made."""
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except DarkroomError:
        raise
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}") from error
    except _MALFORMED as error:
        raise BadInputError(f"{path} is not a well-formed DICOM file ({type(error).__name__})") from error


def _native_words(buffer: Any, form: PixelForm, where: str) -> NDArray[Any]:
    count = form.frames * form.rows * form.columns
    expected = count * form.allocated // 8
    if not isinstance(buffer, bytes) or len(buffer) < expected:
        found = len(buffer) if isinstance(buffer, bytes) else 0
        frames = f"{form.frames} frames of " if form.frames > 1 else ""
        raise BadInputError(
            f"{where} is cut short: {found} bytes of pixels where {frames}{form.rows}x{form.columns} needs {expected}"
        )
    return np.frombuffer(buffer, dtype=form.dtype, count=count).reshape(form.frames, form.rows, form.columns)


def _declare_loss(dataset: Dataset, form: PixelForm) -> None:
    """What the file's own compression lost is lost for good, and only its transfer syntax says so; the header must from now on.

    A file in JPEG 2000's general syntax that declares nothing may be lossless; nobody can tell, so it counts as lossy.
    Source: PS3.3 C.7.6.1.1.5: each lossy step adds its method and ratio.
    """
    method = CODECS[dataset.file_meta.TransferSyntaxUID].loss
    declared = texts(dataset.get("LossyImageCompressionMethod"))
    denied = dataset.get("LossyImageCompression") == "00" and method != DISCRETE_COSINE  # which cannot be lossless
    if not method or denied or method in declared:
        return
    ratios = texts(dataset.get("LossyImageCompressionRatio"))
    size = form.frames * form.rows * form.columns * form.allocated // 8
    ratio = f"{size / max(1, compressed_bytes(dataset, form)):.4g}"
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionMethod = [*declared, method]
    if len(ratios) <= len(declared):  # methods came later into the standard than ratios: this loss may have its ratio already
        dataset.LossyImageCompressionRatio = [*ratios, ratio]


def _meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
