"""Image files in and results out: `.npy`, DICOM (`client.dicom`), and a `.png` preview.

`.npy`: a 2-D float array, [0, 1] nominal, neither normalised nor clipped. Assumes nothing about a file's content.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from client.dicom import derived_dicom, read_dicom
from client.files import replacing, require_regular
from client.origin import IDENTITY, MAX_PIXELS, MIN_IMAGE_SIDE, Kind, Origin, Provenance, SourceImage
from protocols.errors import BadInputError, ConfigurationError

READABLE: Final = "readable are .npy (2-D float) and uncompressed monochrome DICOM"
WRITABLE: Final = (".npy", ".dcm", ".png")
MAX_FILE_BYTES: Final = MAX_PIXELS * 8 + (64 << 20)  # the largest float64 plane, and room for a long header
_NPY_MAGIC: Final = b"\x93NUMPY"
_DICOM_OFFSET: Final = 128  # PS3.10, 7.1: a preamble, then "DICM"
_PREVIEW_TAIL: Final = 0.5  # per cent of a DICOM's pixels that a preview shows as plain black or white, on either side


def read_image(path: Path) -> SourceImage:
    """Read one plane; the content decides on the format, not the name. Run by the client.

    Raises BadInputError: missing, too large or too small, malformed, NaN or infinite pixels, or an unsupported form.
    """
    require_regular(path, MAX_FILE_BYTES)
    try:
        with path.open("rb") as file:
            start = file.read(_DICOM_OFFSET + 4)
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}") from error
    if start.startswith(_NPY_MAGIC):
        return _read_npy(path)
    if start[_DICOM_OFFSET:] == b"DICM":
        return read_dicom(path)
    raise BadInputError(f"{path} is of no known format; {READABLE}")


def check_output(path: Path, origin: Origin) -> None:
    """Find out before the work whether a result can be written. Raises BadInputError, ConfigurationError."""
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise BadInputError(f"{path}: the output's name must end in {', '.join(WRITABLE)}")
    if suffix == ".dcm" and origin.dataset is None:
        raise BadInputError(f"{path}: a DICOM result needs a DICOM source: name the output .npy or .png")
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path} cannot be written: the folder {path.parent} does not exist")
    if path.is_dir():
        raise ConfigurationError(f"{path} cannot be written: it is a folder")


def write_result(path: Path, pixels: Float64[Tensor, "h w"], origin: Origin, provenance: Provenance) -> None:
    """Write a result in the form that the suffix of `path` says: whole, or not at all. Run by the edge.

    .npy: not clipped; for an .npy source with its float width. .dcm: a derived DICOM, clipped to the stored range.
    .png: an 8-bit preview. Raises BadInputError, ConfigurationError: as `check_output`, or the disk is full.
    """
    check_output(path, origin)
    suffix = path.suffix.lower()
    content = derived_dicom(pixels, origin, provenance) if suffix == ".dcm" else b""
    with replacing(path) as file:
        if suffix == ".npy":
            width = origin.bits // 8 if origin.kind is Kind.NPY else 8
            np.save(file, pixels.numpy().astype(f"<f{width}"), allow_pickle=False)
        elif suffix == ".png":
            Image.fromarray(preview(pixels, origin.kind)).save(file, format="PNG")
        else:
            file.write(content)


def preview(pixels: Float64[Tensor, "h w"], kind: Kind) -> NDArray[np.uint8]:
    """8-bit grey levels: [0, 1] as it is for .npy; for DICOM, which seldom fills its range, all but 0.5 % at either end."""
    values = pixels.double().numpy()
    low, high = 0.0, 1.0
    if kind is Kind.DICOM:
        low, high = (float(level) for level in np.percentile(values, [_PREVIEW_TAIL, 100.0 - _PREVIEW_TAIL]))
    scaled = (values - low) / max(high - low, 1e-12)
    grey: NDArray[np.uint8] = np.rint(np.clip(scaled, 0.0, 1.0) * 255.0).astype(np.uint8)
    return grey


def _read_npy(path: Path) -> SourceImage:
    try:
        with np.errstate(over="raise"):  # a size beyond 2^64 would wrap with a warning
            array = np.lib.format.open_memmap(path, mode="r")  # reads the header alone; never unpickles
    except (OSError, ValueError, ArithmeticError, SyntaxError, EOFError) as error:
        raise BadInputError(f"{path} is not a well-formed .npy file: {error}") from error
    if array.ndim != 2:
        raise BadInputError(f"{path} has {array.ndim} dimensions; an image has 2")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise BadInputError(f"{path} holds {array.dtype}, not float16, float32 or float64: map it to [0, 1] as a float first")
    height, width = array.shape
    if min(height, width) < MIN_IMAGE_SIDE or height * width > MAX_PIXELS:
        raise BadInputError(
            f"{path} is {height}x{width}: each side needs {MIN_IMAGE_SIDE} pixels, and at most {MAX_PIXELS} in all"
        )
    pixels = torch.from_numpy(np.array(array, dtype=np.float64, order="C"))
    if not bool(torch.isfinite(pixels).all()):
        raise BadInputError(f"{path} holds NaN or infinite pixels; clean them first")
    return SourceImage(pixels, Origin(Kind.NPY, IDENTITY, array.dtype.itemsize * 8, path.name, None))
