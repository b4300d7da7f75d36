"""DICOM in and out: one uncompressed monochrome plane; the whole range that its values span is mapped to [0, 1].

Not the range that the bits could hold: a 16-bit file of 2,000 grey levels would be a sliver of it, and a noise level would
mean nothing. Nothing is cut off. The map is a matter of the image, so it stays at the hospital.
It is one of the *stored* values (DICOM PS3.3, C.7.6.3.1), so the modality and VOI transformations of the header fit the
result as they fit the source. Assumes nothing about the file: it is hostile until checked.
Source: DICOM PS3.3 2024e, C.7.6.1 (derived images), C.7.6.3 (pixels), C.9.2 (overlays); PS3.5, 8.1.1 (bits).
"""

import copy
import io
import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from torch import Tensor

from client.origin import MAX_PIXELS, MIN_IMAGE_SIDE, Kind, Normalisation, Origin, Provenance, SourceImage
from protocols.errors import BadInputError, DarkroomError

SUPPORTED: Final = "supported is one uncompressed, little-endian, monochrome plane of 8 to 16 stored bits"
_SYNTAXES: Final = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
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
_PIXEL_DATA: Final = Tag(0x7FE0, 0x0010)
# Of the source's pixels or of the file as it was; wrong or void for a derived image.
_DROPPED: Final = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "IconImageSequence",
    "MACParametersSequence",
    "DigitalSignaturesSequence",
    "OriginalAttributesSequence",
    "DataSetTrailingPadding",
)


@dataclass(frozen=True)
class PixelForm:
    """How one plane is stored."""

    rows: int
    columns: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    inverted: bool  # MONOCHROME1: the largest value is black

    @property
    def low(self) -> int:
        return -(1 << (self.stored - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        return self.low + (1 << self.stored) - 1

    def normalisation(self, stored: NDArray[np.int32]) -> Normalisation:
        """Maps 0 to the darkest and 1 to the brightest value of this plane; a constant plane becomes 0."""
        low, high = float(stored.min()), float(stored.max())
        span = (high - low) or 1.0
        return Normalisation(-span, high) if self.inverted else Normalisation(span, low)


def read_dicom(path: Path) -> SourceImage:
    """Read one plane. Run by the client. Raises BadInputError: malformed, or a form that is not supported."""
    with _parsing(path):
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        # Before anything else is read: a deflated file may unpack to any size.
        if syntax not in _SYNTAXES:
            raise BadInputError(f"{path}: the transfer syntax is {_name(syntax)}; {SUPPORTED}")
        form = pixel_form(pydicom.dcmread(path, stop_before_pixels=True), str(path))
        dataset: Dataset = pydicom.dcmread(path)
        if _PIXEL_DATA not in dataset:
            raise BadInputError(f"{path} has no PixelData; {SUPPORTED}")
        buffer = dataset[_PIXEL_DATA].value
        del dataset[_PIXEL_DATA]
        stored = _unpack(buffer, form, str(path))
        dataset = parse_header(serialise_header(dataset))  # what cannot be written back must fail now, not after the work
    map_back = form.normalisation(stored)
    pixels = (torch.from_numpy(stored).double() - map_back.intercept) / map_back.slope
    return SourceImage(pixels, Origin(Kind.DICOM, map_back, form.stored, path.name, dataset))


def pixel_form(dataset: Dataset, where: str) -> PixelForm:
    """Read and check how the plane is stored; touches no pixel. Raises BadInputError."""
    photometric = str(dataset.get("PhotometricInterpretation", "missing"))
    samples, frames = _integer(dataset, "SamplesPerPixel", where, 1), _integer(dataset, "NumberOfFrames", where, 1)
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or samples != 1:
        raise BadInputError(f"{where}: {photometric[:20]} with {samples} samples per pixel; {SUPPORTED}")
    if frames != 1:
        raise BadInputError(f"{where} has {frames} frames; {SUPPORTED}")
    rows, columns = _integer(dataset, "Rows", where), _integer(dataset, "Columns", where)
    if min(rows, columns) < MIN_IMAGE_SIDE or rows * columns > MAX_PIXELS:
        raise BadInputError(
            f"{where} is {rows}x{columns}: each side needs {MIN_IMAGE_SIDE} pixels, and at most {MAX_PIXELS} in all"
        )
    allocated, stored = _integer(dataset, "BitsAllocated", where), _integer(dataset, "BitsStored", where)
    high_bit = _integer(dataset, "HighBit", where, stored - 1)
    if allocated not in (8, 16) or not 8 <= stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise BadInputError(f"{where}: {stored} bits stored in {allocated}, high bit {high_bit}; {SUPPORTED}")
    signed = _integer(dataset, "PixelRepresentation", where)
    if signed not in (0, 1):
        raise BadInputError(f"{where}: PixelRepresentation is {signed}; it must be 0 or 1")
    return PixelForm(rows, columns, allocated, stored, high_bit, bool(signed), photometric == "MONOCHROME1")


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
    with _parsing(path):
        return parse_header(content)


def derived_dicom(pixels: Tensor, origin: Origin, provenance: Provenance, *, now: datetime | None = None) -> bytes:
    """A derived image (PS3.3 C.7.6.1.1.2) with the source's header, new identifiers and these pixels. Run by the edge.

    Pixels are rounded and clipped to the stored range. Overlays that have their own OverlayData stay, since the plane is
    the same; those hidden in unused pixel bits (retired in 2004) go, because these bits are now zero. A thumbnail,
    extreme values and digital signatures of the source go too.
    Raises BadInputError: the header does not fit the pixels.
    """
    if origin.dataset is None:
        raise BadInputError("a DICOM result needs a DICOM source: name the output .npy or .png")
    now = datetime.now() if now is None else now
    with _parsing(Path(origin.name)):
        dataset = copy.deepcopy(origin.dataset)
        form = pixel_form(dataset, origin.name)
        if (form.rows, form.columns) != tuple(pixels.shape):
            raise BadInputError(f"the result is {tuple(pixels.shape)}, the header says {form.rows}x{form.columns}")
        source_class, source_instance = dataset.SOPClassUID, dataset.SOPInstanceUID
        for keyword in _DROPPED:
            if keyword in dataset:
                delattr(dataset, keyword)
        _drop_embedded_overlays(dataset)
        dataset.SOPInstanceUID = generate_uid(prefix=None)
        dataset.SeriesInstanceUID = generate_uid(prefix=None)
        dataset.ImageType = ["DERIVED", "PRIMARY", *list(_values(dataset.get("ImageType")))[2:]]
        dataset.DerivationDescription = str(provenance)[:1024]
        description = str(dataset.get("SeriesDescription") or "")
        dataset.SeriesDescription = f"{description[:40]} denoised (Darkroom)".strip()
        dataset.InstanceCreationDate, dataset.InstanceCreationTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
        dataset.SourceImageSequence = Sequence([_reference(source_class, source_instance)])
        dataset.HighBit = form.stored - 1
        dataset[_PIXEL_DATA] = pydicom.DataElement(
            _PIXEL_DATA, "OB" if form.allocated == 8 else "OW", _pack_bits(pixels, form, origin.normalisation)
        )
        return serialise_header(dataset)


def _reference(sop_class: str, sop_instance: str) -> Dataset:
    purpose = Dataset()
    purpose.CodeValue = "121322"
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class
    reference.ReferencedSOPInstanceUID = sop_instance
    reference.PurposeOfReferenceCodeSequence = Sequence([purpose])
    return reference


def _drop_embedded_overlays(dataset: Dataset) -> None:
    for group in range(0x6000, 0x6020, 2):
        if Tag(group, 0x0010) in dataset and Tag(group, 0x3000) not in dataset:
            for tag in [tag for tag in dataset.keys() if tag.group == group]:  # noqa: SIM118 - a Dataset iterates elements
                del dataset[tag]


def _unpack(buffer: Any, form: PixelForm, where: str) -> NDArray[np.int32]:
    """Stored values: the stored bits are cut out of the allocated ones, then sign-extended."""
    count = form.rows * form.columns
    expected = count * form.allocated // 8
    if not isinstance(buffer, bytes) or len(buffer) < expected:
        found = len(buffer) if isinstance(buffer, bytes) else 0
        raise BadInputError(f"{where} is cut short: {found} bytes of pixels where {form.rows}x{form.columns} needs {expected}")
    words = np.frombuffer(buffer, dtype="<u2" if form.allocated == 16 else "u1", count=count).astype(np.int32)
    values = (words >> (form.high_bit + 1 - form.stored)) & ((1 << form.stored) - 1)
    if form.signed:
        values -= (values >> (form.stored - 1)) << form.stored
    return values.reshape(form.rows, form.columns)


def _pack_bits(pixels: Tensor, form: PixelForm, normalisation: Normalisation) -> bytes:
    """Round and clip to the stored range. A negative value is sign-extended through the unused bits, as readers expect."""
    stored = np.rint(pixels.double().numpy() * normalisation.slope + normalisation.intercept)
    words = np.clip(stored, form.low, form.high).astype(np.int32)
    raw = (words & ((1 << form.allocated) - 1)).astype("<u2" if form.allocated == 16 else "u1").tobytes()
    return raw + bytes(len(raw) % 2)


def _meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _integer(dataset: Dataset, keyword: str, where: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    value = default if value is None else value
    if not isinstance(value, int):
        raise BadInputError(f"{where}: {keyword} is {'missing' if value is None else 'not one integer'}; {SUPPORTED}")
    return int(value)


def _values(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _name(syntax: Any) -> str:
    return UID(str(syntax)).name[:60] if syntax else "missing"


@contextmanager
def _parsing(path: Path) -> Generator[None]:
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
