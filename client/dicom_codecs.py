"""Compressed DICOM pixels: which transfer syntaxes are read, by which package, and what is checked before a decoder sees a byte.

Every decoder is named, so the same file gives the same pixels everywhere, and none is under the GPL (pylibjpeg-libjpeg is).
A file may be hostile. So each frame must end as its format says, and the size that it declares must be the header's: a decoder
makes room for what the stream says. The decoders are C and C++; a fault in one is outside what this module can promise.
Source: DICOM PS3.5 2024e, A.4; ITU-T T.81 B.1.1.3 (markers), T.87 C.1.1, T.800 A.4 and A.5.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEG2000 as JPEG2000Lossy
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from client.dicom_pixels import SUPPORTED, PixelForm
from protocols.errors import BadInputError, ConfigurationError

NATIVE: Final = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
INSTALL: Final = "pip install 'darkroom[codecs]'"
_START: Final = b"\xff\xd8"
_END: Final = b"\xff\xd9"
_CODESTREAM: Final = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream, then its size
_NO_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # markers that stand alone
# Frame headers: JPEG's (all but DHT, JPG and DAC of 0xC0 to 0xCF), and that of JPEG-LS.
_FRAME_HEADERS: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


@dataclass(frozen=True)
class Codec:
    """One way to compress: who decodes it, and what it is called where a loss must be declared."""

    plugin: str  # pydicom's name for the decoder
    package: str
    loss: str = ""  # LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1); empty: lossless


_JPEG2000: Final = "ISO_15444_1"
DISCRETE_COSINE: Final = "ISO_10918_1"
CODECS: Final[dict[str, Codec]] = {
    RLELossless: Codec("pydicom", "pydicom"),
    JPEG2000Lossless: Codec("pylibjpeg", "pylibjpeg-openjpeg"),
    JPEG2000Lossy: Codec("pylibjpeg", "pylibjpeg-openjpeg", _JPEG2000),
    JPEGLSLossless: Codec("pyjpegls", "pyjpegls"),
    JPEGLSNearLossless: Codec("pyjpegls", "pyjpegls", "ISO_14495_1"),
    JPEGLossless: Codec("gdcm", "python-gdcm"),
    JPEGLosslessSV1: Codec("gdcm", "python-gdcm"),
    JPEGBaseline8Bit: Codec("gdcm", "python-gdcm", DISCRETE_COSINE),
}


def require_readable(syntax: Any, where: str) -> None:
    """Before anything else of a file is read: a deflated one may unpack to any size.

    Raises BadInputError: a transfer syntax that nobody here reads. ConfigurationError: its decoder is not installed.
    """
    if syntax in NATIVE:
        return
    name = UID(str(syntax)).name[:80] if syntax else "missing"
    codec = CODECS.get(str(syntax)) if syntax else None
    if codec is None:
        raise BadInputError(f"{where}: the transfer syntax is {name}; {SUPPORTED}")
    if codec.plugin not in get_decoder(UID(str(syntax))).available_plugins:
        raise ConfigurationError(f"{where} is compressed as {name}, and {codec.package} is not installed. Run: {INSTALL}")


def readable_syntaxes() -> list[UID]:
    """Every transfer syntax that is read here, with the decoders that are installed."""
    compressed = [UID(syntax) for syntax, codec in CODECS.items() if codec.plugin in get_decoder(UID(syntax)).available_plugins]
    return [*NATIVE, *compressed]


def decode_frames(dataset: Dataset, form: PixelForm, where: str) -> NDArray[Any]:
    """All planes of a compressed file as words, [frame, row, column]. Raises BadInputError: damaged, or another size."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    codec = CODECS[syntax]
    try:
        for number, frame in enumerate(_frames(dataset, form), start=1):
            _check_frame(frame, syntax, form, f"{where}, frame {number}")
        words = np.empty((form.frames, form.rows, form.columns), dtype=form.dtype)
        decoder = get_decoder(syntax)
        count = 0
        for plane, _ in decoder.iter_array(dataset, raw=True, decoding_plugin=codec.plugin):
            # The same bits, whatever sign the decoder gave them. It returns no more than the header's bits allocated.
            words[count] = plane.astype(np.int32) & ((1 << form.allocated) - 1)
            count += 1
    except RuntimeError as error:  # what pydicom makes of all that a decoder raises
        raise BadInputError(f"{where} has damaged pixels: its {syntax.name[:80]} cannot be decoded") from error
    if count != form.frames:
        raise BadInputError(f"{where} is cut short: {count} of {form.frames} frames")
    return words


def compressed_bytes(dataset: Dataset, form: PixelForm) -> int:
    """The length of all frames as they are compressed."""
    return sum(len(frame) for frame in _frames(dataset, form))


def codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 frame declares; None where it declares none."""
    start = frame.find(_CODESTREAM, 0, 4096)  # after the boxes of a .jp2, which some writers put here
    if start >= 0 and not frame.startswith(_START):
        sizes = np.frombuffer(frame[start + 8 : start + 24].ljust(16, b"\x00"), dtype=">u4").astype(np.int64)
        return int(sizes[1] - sizes[3]), int(sizes[0] - sizes[2]), int.from_bytes(frame[start + 40 : start + 42])
    position = 2
    while frame.startswith(_START) and position + 10 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker in _FRAME_HEADERS:
            rows, columns = frame[position + 5 : position + 7], frame[position + 7 : position + 9]
            return int.from_bytes(rows), int.from_bytes(columns), frame[position + 9]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _NO_LENGTH:
            position += 2
        else:
            position += 2 + int.from_bytes(frame[position + 2 : position + 4])
    return None


def _frames(dataset: Dataset, form: PixelForm) -> Iterator[bytes]:
    offsets = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    extended = (offsets[0], offsets[1]) if offsets[0] and offsets[1] else None
    yield from generate_frames(dataset.PixelData, number_of_frames=form.frames, extended_offsets=extended)


def _check_frame(frame: bytes, syntax: UID, form: PixelForm, where: str) -> None:
    if syntax == RLELossless:
        return  # its length follows from the header, and pydicom compares
    if _END not in frame.rstrip(b"\x00")[-3:]:  # a frame of odd length is padded, by some writers not with zero
        raise BadInputError(f"{where} is cut short: the end of its {syntax.name[:80]} is missing")
    size = codestream_size(frame)
    if size != (form.rows, form.columns, 1):
        found = "no size" if size is None else f"{size[0]}x{size[1]} with {size[2]} components"
        raise BadInputError(f"{where} declares {found}, and the header {form.rows}x{form.columns} with 1: the file is damaged")
