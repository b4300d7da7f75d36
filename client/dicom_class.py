"""What a DICOM file says that it is, before anything of it is trusted: no pixel is read, and nothing is unpacked.

A study's folder holds more than images: an index (DICOMDIR), reports, presentation states, dose tables.
Source: DICOM PS3.10, 7.1 (file meta); PS3.6, annex A (names: every class of images, and no other, is called "... Image ...").
"""

import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from client.origin import DERIVED_BY

_DICOMDIR: Final = "1.2.840.10008.1.3.10"
# What a damaged file meta makes pydicom raise. The reader of images then says what is wrong with it.
_DAMAGED: Final = (
    InvalidDicomError,
    BytesLengthException,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    struct.error,
)


def why_no_image(path: Path) -> str:
    """What a DICOM file is, where it is no image; empty: it may be one. Reads the file meta alone. Raises OSError."""
    sop_class = ""
    with _lenient():
        sop_class = str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    if sop_class == _DICOMDIR:
        return "an index of DICOM files (DICOMDIR)"
    name = UID(sop_class).name
    if not name or name == sop_class or "Image" in name:  # unnamed classes are private, or newer than our table
        return ""
    return f"a DICOM object that is no image ({name})"


def is_our_result(path: Path) -> bool:
    """Whether a DICOM file says that Darkroom derived it (`client.origin.Provenance`). Raises OSError."""
    with _lenient():
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return False  # may unpack to any size; the reader of images refuses it
        header = dcmread(path, stop_before_pixels=True, specific_tags=["DerivationDescription"])
        return str(header.get("DerivationDescription", "")).startswith(DERIVED_BY)
    return False


@contextmanager
def _lenient() -> Generator[None]:
    """End the block where the file is damaged: the reader of images says what is wrong. pydicom's warnings quote values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except _DAMAGED:
            return
