"""Image files in and results out: which format a file has, and which formats its result can have.

| source | results |
|---|---|
| `.npy`, 2-D | .npy, .png (preview) |
| DICOM, one file | .dcm, .npy; one frame: .png (preview) |
| a folder that is one DICOM series | a folder of .dcm; .npy |
| PNG, TIFF | .png and .tif of the same depth, .npy; several pages: .tif, .npy |
| NIfTI | .nii, .nii.gz, .npy; one plane: .png (preview) |

An .npy result is not clipped, and of several planes it has three dimensions. Assumes nothing about a file's content.
"""

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from client.dicom import read_dicom
from client.dicom_anonymous import require_anonymiser
from client.dicom_derived import Derivation, derived_dicom
from client.dicom_series import MAGIC, PREAMBLE, read_series
from client.files import replacing, require_regular
from client.nifti import GZIP_MAGIC, looks_like_nifti, nifti, read_nifti
from client.npy import read_npy
from client.origin import MAX_STACK_PIXELS, ImageStack, Kind, Origin, Provenance, SourceImage
from client.rasters import raster, read_raster
from protocols.errors import BadInputError, ConfigurationError, UnknownFormatError

READABLE: Final = (
    "readable are DICOM (monochrome, uncompressed or compressed), a folder that is one DICOM series, grey PNG and TIFF,"
    " NIfTI (.nii, .nii.gz), and .npy (2-D float)"
)
MAX_FILE_BYTES: Final = MAX_STACK_PIXELS * 8 + (64 << 20)  # the largest float64 volume, and room for a long header
_START_BYTES: Final = 352
_NPY_MAGIC: Final = b"\x93NUMPY"
_PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_TIFF_MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PREVIEW_TAIL: Final = 0.5  # per cent of the pixels that a preview shows as plain black or white, on either side
NPY, DCM, PNG, NII, NII_GZ = ".npy", ".dcm", ".png", ".nii", ".nii.gz"
TIFF: Final = (".tif", ".tiff")
_RASTER: Final = {PNG: Kind.PNG, **dict.fromkeys(TIFF, Kind.TIFF)}
_OUTPUTS: Final = {
    Kind.NPY: (NPY, PNG),
    Kind.DICOM: (DCM, NPY, PNG),
    Kind.PNG: (PNG, *TIFF, NPY),
    Kind.TIFF: (*TIFF, PNG, NPY),
    Kind.NIFTI: (NII, NII_GZ, NPY, PNG),
    Kind.FRAME: (NPY, PNG),
}


def read_stack(path: Path) -> ImageStack:
    """Read all planes of a file, or of a folder that is one DICOM series; content decides on the format, not the name.

    Run by the client. Raises BadInputError: missing, too large or too small, malformed, or an unsupported form.
    ConfigurationError: a decoder is not installed.
    """
    if path.is_dir():
        return read_series(path)
    require_regular(path, MAX_FILE_BYTES)
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}") from error
    if start.startswith(_NPY_MAGIC):
        return read_npy(path)
    if start[PREAMBLE:].startswith(MAGIC):
        return read_dicom(path)
    if start.startswith((_PNG_MAGIC, *_TIFF_MAGIC)):
        return read_raster(path)
    if start.startswith(GZIP_MAGIC) or looks_like_nifti(start):
        return read_nifti(path)
    raise UnknownFormatError(f"{path} is of no known format; {READABLE}")


def read_image(path: Path) -> SourceImage:
    """Read a file of one plane. Run by the client. Raises as `read_stack`; BadInputError: several planes."""
    stack = read_stack(path)
    if stack.count != 1:
        raise BadInputError(f"{path} has {stack.count} planes where one is wanted")
    return stack.plane(0)


def outputs(kind: Kind, *, planes: int = 1, series: bool = False) -> tuple[str, ...]:
    """The endings that a result's name may have; "a folder" for a series."""
    if series:
        return ("a folder", NPY)
    return tuple(suffix for suffix in _OUTPUTS[kind] if planes == 1 or suffix != PNG)


def check_output(path: Path, origin: Origin, *, planes: int = 1, series: bool = False, anonymous: bool = False) -> None:
    """Find out before the work whether a result can be written. Raises BadInputError, ConfigurationError."""
    form = _form(path)
    allowed = outputs(origin.kind, planes=planes, series=series)
    if (form or "a folder") not in allowed:
        source = "a series" if series else f"{planes} planes of {origin.kind.value}" if planes > 1 else origin.kind.value
        raise BadInputError(f"{path}: the result of a source that is {source} can be {', '.join(allowed)}; name the output so")
    if anonymous:
        require_anonymiser(origin.dataset if form in (DCM, "") else None, str(path))
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path} cannot be written: the folder {path.parent} does not exist")
    if form and path.is_dir():
        raise ConfigurationError(f"{path} cannot be written: it is a folder")
    if not form and path.exists():
        raise ConfigurationError(f"{path} cannot be written: it exists already; name a new folder for the series")


def check_stack_output(path: Path, stack: ImageStack, *, anonymous: bool = False) -> None:
    """`check_output` for all planes of a source. Raises BadInputError, ConfigurationError."""
    origins = stack.origins() if anonymous else [stack.plane(0).origin]
    for origin in origins:
        check_output(path, origin, planes=stack.count, series=bool(stack.files), anonymous=anonymous)


def write_result(
    path: Path,
    pixels: Float64[Tensor, "h w"],
    origin: Origin,
    provenance: Provenance,
    derivation: Derivation | None = None,
) -> None:
    """Write the result of one plane in the form that the suffix of `path` says: whole, or not at all. Run by the edge.

    Raises BadInputError, ConfigurationError: as `check_output`, or the disk is full.
    """
    derivation = Derivation.fresh() if derivation is None else derivation
    check_output(path, origin, anonymous=derivation.anonymous)
    _write_file(path, [pixels], [origin], [provenance], derivation)


def write_stack(
    path: Path, results: Sequence[Tensor], stack: ImageStack, provenances: Sequence[Provenance], derivation: Derivation
) -> None:
    """Write the results of all planes as one file, or a series as a folder: whole, or not at all. Run by the edge.

    Raises BadInputError, ConfigurationError: as `check_stack_output`, or the disk is full.
    """
    check_stack_output(path, stack, anonymous=derivation.anonymous)
    origins = list(stack.origins())
    if _form(path):
        _write_file(path, results, origins, provenances, derivation)
        return
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        part.mkdir()
    except OSError as error:
        raise ConfigurationError(f"the folder {path} cannot be made: {error.strerror or error}") from error
    try:
        for name, pixels, origin, provenance in zip(stack.files, results, origins, provenances, strict=True):
            file = part / (name if name.lower().endswith(DCM) else name + DCM)
            _write_file(file, [pixels], [origin], [provenance], derivation)
        part.rename(path)
    except OSError as error:
        raise ConfigurationError(f"the folder {path} cannot be made: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def preview(pixels: Float64[Tensor, "h w"], kind: Kind) -> NDArray[np.uint8]:
    """8-bit grey levels: [0, 1] as it is for .npy; for others, which seldom fill their range, all but 0.5 % at either end."""
    values = pixels.double().numpy()
    low, high = 0.0, 1.0
    if kind is not Kind.NPY:
        low, high = (float(level) for level in np.percentile(values, [_PREVIEW_TAIL, 100.0 - _PREVIEW_TAIL]))
    scaled = (values - low) / max(high - low, 1e-12)
    grey: NDArray[np.uint8] = np.rint(np.clip(scaled, 0.0, 1.0) * 255.0).astype(np.uint8)
    return grey


def _write_file(
    path: Path,
    results: Sequence[Tensor],
    origins: Sequence[Origin],
    provenances: Sequence[Provenance],
    derivation: Derivation,
) -> None:
    form, kind = _form(path), origins[0].kind
    content = b""
    if form == DCM:
        content = derived_dicom(results, origins, Provenance.of_all(provenances), derivation)
    elif form in (NII, NII_GZ):
        content = nifti(results, origins, compressed=form == NII_GZ)
    elif form in _RASTER and kind in (Kind.PNG, Kind.TIFF):
        content = raster(results, origins, _RASTER[form])
    with replacing(path) as file:
        if form == NPY:
            width = origins[0].bits // 8 if kind is Kind.NPY else 8
            planes = [origin.to_grey_results(pixels) for pixels, origin in zip(results, origins, strict=True)]
            np.save(file, (planes[0] if len(planes) == 1 else np.stack(planes)).astype(f"<f{width}"), allow_pickle=False)
        elif content:
            file.write(content)
        else:
            Image.fromarray(preview(results[0], kind)).save(file, format="PNG")


def _form(path: Path) -> str:
    """The suffix that decides on the form, in small letters; empty for a folder."""
    name = path.name.lower()
    return NII_GZ if name.endswith(NII_GZ) else path.suffix.lower()
