"""`.npy`: a 2-D float array, [0, 1] nominal, neither normalised nor clipped. Assumes nothing about a file's content."""

from pathlib import Path

import numpy as np
import torch

from client.origin import IDENTITY, MAX_PIXELS, MIN_IMAGE_SIDE, ImageStack, Kind, Origin, SourceImage, single
from protocols.errors import BadInputError


def read_npy(path: Path) -> ImageStack:
    """Read one plane. Run by the client. Raises BadInputError."""
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
    return single(SourceImage(pixels, Origin(Kind.NPY, IDENTITY, array.dtype.itemsize * 8, path.name, None)))
