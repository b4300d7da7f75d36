"""NIfTI-1 and NIfTI-2 volumes, plain or gzipped, in and out: planes of the first two axes, in the order of the others.

The range that the whole volume spans is mapped to [0, 1]. A voxel that is NaN or infinite is no part of the picture and comes
back as it was. A result is the source's own header, extensions included, byte for byte, with new voxels of the same type:
affine, units and scaling are the source's. nibabel reads the header. Assumes nothing about a file: it is hostile until checked.
Source: https://nifti.nimh.nih.gov/nifti-1 (nifti1.h), nifti-2.
"""

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray
from torch import Tensor

from client.origin import (
    MAX_PIXELS,
    MAX_PLANES,
    MAX_STACK_PIXELS,
    MIN_IMAGE_SIDE,
    ImageStack,
    KeptPixels,
    Kind,
    Normalisation,
    Origin,
    SourceImage,
)
from protocols.errors import BadInputError, UnknownFormatError

GZIP_MAGIC: Final = b"\x1f\x8b"
MAX_HEADER_BYTES: Final = 16 << 20  # extensions hold a DICOM header or a history, not more
SUPPORTED: Final = "supported are .nii and .nii.gz of whole or real numbers of at most 64 bits"
_CHUNK: Final = 1 << 20
_FORMS: Final = {348: (Nifti1Header, b"n+1\0", 344), 540: (Nifti2Header, b"n+2\0", 4)}  # by the header's size


def looks_like_nifti(start: bytes) -> bool:
    """Whether a file's first bytes (at least 348) are a single-file NIfTI header's."""
    return any(start[offset : offset + 4] == magic for _, magic, offset in _FORMS.values())


def read_nifti(path: Path) -> ImageStack:
    """Read a volume. Run by the client. Raises BadInputError: malformed, too large, colour or complex numbers."""
    content = _content(path)
    header, offset = parse_nifti_header(content, str(path))
    shape = _shape(header, path)
    dtype = header.get_data_dtype()
    expected = int(np.prod(shape)) * dtype.itemsize
    if len(content) - offset < expected:
        raise BadInputError(f"{path} is cut short: {len(content) - offset} bytes of voxels where {shape} needs {expected}")
    width, height, count = shape
    # The first axis varies fastest: as rows of an image, [plane, y, x].
    voxels = np.frombuffer(content, dtype=dtype, count=int(np.prod(shape)), offset=offset).reshape(count, height, width)
    normalisation = _normalisation(voxels, path)
    head = content[:offset]

    def plane(index: int) -> SourceImage:
        values = voxels[index]
        mask = ~np.isfinite(values)
        kept = KeptPixels(mask, values[mask].astype(np.float64)) if mask.any() else None
        origin = Origin(Kind.NIFTI, normalisation, dtype.itemsize * 8, path.name, None, kept, head)
        return SourceImage(origin.to_grey(values), origin)

    return ImageStack(Kind.NIFTI, path.name, count, height, width, plane)


def nifti(planes: Sequence[Tensor], origins: Sequence[Origin], *, compressed: bool) -> bytes:
    """A volume with the source's header and type; whole numbers are rounded, and clipped to their range. Run by the edge.

    Raises BadInputError: the header does not fit.
    """
    head = origins[0].header
    header, offset = parse_nifti_header(head, origins[0].name)
    width, height, count = _shape(header, Path(origins[0].name))
    if (len(planes), {tuple(plane.shape) for plane in planes}) != (count, {(height, width)}):
        raise BadInputError(f"the result has {len(planes)} planes, the header says {count} of {height}x{width}")
    dtype = header.get_data_dtype()
    body = b"".join(_voxels(plane, origin, dtype) for plane, origin in zip(planes, origins, strict=True))
    content = head[:offset] + body
    return gzip.compress(content, mtime=0) if compressed else content


def parse_nifti_header(content: bytes, where: str) -> tuple[Any, int]:
    """Header and the offset of the voxels. Raises BadInputError."""
    for size, (form, magic, place) in _FORMS.items():
        if content[place : place + 4] != magic or len(content) < size:
            continue
        try:
            header = form.from_fileobj(io.BytesIO(content[:size] + bytes(4)), check=True)
            dtype, offset = header.get_data_dtype(), int(header.get_data_offset())
        except (HeaderDataError, WrapStructError, ValueError, LookupError, ArithmeticError) as error:
            raise BadInputError(f"{where} is not a well-formed NIfTI file ({type(error).__name__})") from error
        if dtype.kind not in "iuf" or dtype.itemsize > 8 or (dtype.kind != "f" and dtype.itemsize > 4):
            raise BadInputError(f"{where} holds {dtype}; {SUPPORTED}")
        if not size <= offset <= min(len(content), MAX_HEADER_BYTES):
            raise BadInputError(f"{where} is cut short: its voxels begin at byte {offset}")
        return header, offset
    raise BadInputError(f"{where} is not a well-formed NIfTI file; {SUPPORTED}")


def _content(path: Path) -> bytes:
    """The whole file, unpacked: a gzip may unpack to any size, and is read no further than an image may be large."""
    limit = MAX_STACK_PIXELS * 8 + MAX_HEADER_BYTES
    try:
        with path.open("rb") as file:
            if file.read(2) != GZIP_MAGIC:
                return path.read_bytes()
        with gzip.open(path, "rb") as packed:
            start = packed.read(_CHUNK)
            header, offset = parse_nifti_header(start, str(path)) if looks_like_nifti(start) else (None, 0)
            if header is None:
                raise UnknownFormatError(f"{path} is a gzip of no known format; {SUPPORTED}")
            shape = _shape(header, path)
            rest = int(np.prod(shape)) * header.get_data_dtype().itemsize + offset - len(start)
            content = start + packed.read(max(0, min(rest, limit)))
    except (OSError, EOFError, zlib.error) as error:
        raise BadInputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return content


def _shape(header: Any, path: Path) -> tuple[int, int, int]:
    """Width, height and number of planes."""
    dimensions = [int(side) for side in header.get_data_shape()]
    if len(dimensions) < 2 or min(dimensions) < 1:
        raise BadInputError(f"{path} has {len(dimensions)} dimensions, {tuple(dimensions)}; a volume has 2 to 7")
    width, height = dimensions[:2]
    count = 1
    for side in dimensions[2:]:
        count *= side
    if min(width, height) < MIN_IMAGE_SIDE or width * height > MAX_PIXELS:
        raise BadInputError(
            f"{path} has planes of {height}x{width}: each side needs {MIN_IMAGE_SIDE} pixels, and at most {MAX_PIXELS} in all"
        )
    if count > MAX_PLANES or count * width * height > MAX_STACK_PIXELS:
        raise BadInputError(
            f"{path} has {count} planes of {height}x{width}: at most {MAX_PLANES} planes and {MAX_STACK_PIXELS} pixels in all"
        )
    return width, height, count


def _normalisation(voxels: NDArray[Any], path: Path) -> Normalisation:
    ends = [float(end) for plane in voxels for end in _ends(plane)]
    if not ends:
        return Normalisation(1.0, 0.0)
    span = (max(ends) - min(ends)) or 1.0
    if not math.isfinite(span):
        raise BadInputError(f"{path} spans more than real numbers hold, from {min(ends):g} to {max(ends):g}; clean it first")
    return Normalisation(span, min(ends))


def _ends(plane: NDArray[Any]) -> list[Any]:
    picture = plane[np.isfinite(plane)]
    return [picture.min(), picture.max()] if picture.size else []


def _voxels(pixels: Tensor, origin: Origin, dtype: np.dtype[Any]) -> bytes:
    values = origin.to_values(pixels)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype).tobytes()
