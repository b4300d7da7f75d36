"""What a DICOM file says that it holds, from its file meta alone: a few hundred bytes, and nothing is unpacked.

A study's folder holds more than images: an index (DICOMDIR), reports, presentation states, dose tables.
Source: DICOM PS3.10, 7.1 (file meta); PS3.6, annex A (names: every class of images, and no other, is called "... Image ...").
"""

import struct
import warnings
from pathlib import Path
from typing import Final

from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

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
    """What a DICOM file is, where it is no image; empty: it may be one. Touches no patient's data. Raises OSError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            sop_class = str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    except _DAMAGED:
        return ""
    if sop_class == _DICOMDIR:
        return "an index of DICOM files (DICOMDIR)"
    name = UID(sop_class).name
    if not name or name == sop_class or "Image" in name:  # unnamed classes are private, or newer than our table
        return ""
    return f"a DICOM object that is no image ({name})"
