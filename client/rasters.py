"""Grey PNG and TIFF, 8 or 16 bits, in and out; a TIFF may have several pages of one size.

As in DICOM, the range that the values span is mapped to [0, 1], over all pages together. The bit depth and the resolution stay;
other metadata is not carried over. Pillow reads and writes. Assumes nothing about a file: it is hostile until checked.
"""

import io
import json
import math
import struct
import warnings
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION
from torch import Tensor

from client.origin import (
    MAX_PIXELS,
    MAX_PLANES,
    MAX_STACK_PIXELS,
    MIN_IMAGE_SIDE,
    ImageStack,
    Kind,
    Normalisation,
    Origin,
    SourceImage,
)
from protocols.errors import BadInputError, DarkroomError

SUPPORTED: Final = "supported is grey of 8 or 16 bits, unsigned, without transparency"
_BITS: Final = {"L": 8, "I;16": 16, "I;16B": 16, "I;16L": 16}
_DAMAGED: Final = (
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_KINDS: Final = {"PNG": Kind.PNG, "TIFF": Kind.TIFF}
_WHITE_IS_ZERO: Final = 0


def read_raster(path: Path) -> ImageStack:
    """Read all pages. Run by the client. Raises BadInputError: colour, another depth, damaged, too large."""
    with _reading(path), Image.open(path, formats=list(_KINDS)) as image:
        kind = _KINDS[str(image.format)]
        count = int(getattr(image, "n_frames", 1))
        if count > MAX_PLANES or count * image.width * image.height > MAX_STACK_PIXELS:
            raise BadInputError(
                f"{path} has {count} pages of {image.height}x{image.width}: at most {MAX_PLANES} pages and"
                f" {MAX_STACK_PIXELS} pixels in all"
            )
        size, mode = image.size, image.mode
        header = _header(image)
        pages = []
        for index in range(count):
            image.seek(index)
            _check_page(image, path, index)
            if (image.size, image.mode) != (size, mode):
                raise BadInputError(f"{path}: page {index + 1} is of another size or depth than page 1; split the file")
            pages.append(np.array(image, dtype=np.uint8 if _BITS[mode] == 8 else np.uint16))
    values = np.stack(pages)
    low, high = float(values.min()), float(values.max())
    origin = Origin(kind, Normalisation((high - low) or 1.0, low), _BITS[mode], path.name, None, header=header)

    def plane(index: int) -> SourceImage:
        return SourceImage(origin.to_grey(values[index]), origin)

    return ImageStack(kind, path.name, count, size[1], size[0], plane)


def raster(planes: Sequence[Tensor], origins: Sequence[Origin], kind: Kind) -> bytes:
    """A PNG or TIFF of the source's bit depth, rounded and clipped to it. Run by the edge.

    Raises BadInputError: several planes for a PNG.
    """
    if kind is Kind.PNG and len(planes) > 1:
        raise BadInputError(f"a .png holds one plane, and the source has {len(planes)}: name the output .tif or .npy")
    images = [Image.fromarray(_values(plane, origin)) for plane, origin in zip(planes, origins, strict=True)]
    options: dict[str, Any] = json.loads(origins[0].header or b"{}")
    if "dpi" in options:
        options["dpi"] = tuple(options["dpi"])
    out = io.BytesIO()
    if kind is Kind.PNG:
        images[0].save(out, format="PNG", **options)
    else:
        images[0].save(out, format="TIFF", compression="tiff_adobe_deflate", save_all=True, append_images=images[1:], **options)
    return out.getvalue()


def _values(pixels: Tensor, origin: Origin) -> NDArray[Any]:
    values = np.clip(np.rint(origin.to_values(pixels)), 0, (1 << origin.bits) - 1)
    return values.astype(np.uint8 if origin.bits == 8 else np.uint16)


def _check_page(image: Image.Image, path: Path, index: int) -> None:
    """Before a pixel is decoded."""
    where = f"{path}, page {index + 1}" if index else str(path)
    if image.mode not in _BITS or "transparency" in image.info:
        kind = {"1": "black and white", "P": "colour (a palette)", "F": "floating point", "I": "of signed or 32-bit numbers"}
        raise BadInputError(f"{where} is {kind.get(image.mode, f'colour ({image.mode})')}; {SUPPORTED}")
    if min(image.size) < MIN_IMAGE_SIDE or image.width * image.height > MAX_PIXELS:
        raise BadInputError(
            f"{where} is {image.height}x{image.width}: each side needs {MIN_IMAGE_SIDE} pixels, and at most {MAX_PIXELS} in all"
        )
    tags = getattr(image, "tag_v2", {})
    if _BITS[image.mode] == 16 and tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        raise BadInputError(f"{where} has 16 bits with white as zero; invert it, {SUPPORTED}")


def _header(image: Image.Image) -> bytes:
    """The resolution, as JSON for `raster`."""
    dpi = [float(value) for value in image.info.get("dpi", ())]
    return json.dumps({"dpi": dpi}).encode() if len(dpi) == 2 and all(math.isfinite(v) and v > 0 for v in dpi) else b""


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """Turn Pillow's many errors into one, and its warnings, which are about size, into none: sizes are checked here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DarkroomError:
        raise
    except _DAMAGED as error:
        raise BadInputError(f"{path} is not a well-formed PNG or TIFF file ({type(error).__name__})") from error
    except OSError as error:  # a truncated image, too
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}") from error
