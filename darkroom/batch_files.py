"""Which files of a folder are denoised, and where each result goes.

A result lies where its source lies, in the output folder. The content of a file decides, not its name: a DICOM's result is a
DICOM. Links to folders are not followed (they can form loops), links to files are. Assumes POSIX.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.dicom_class import why_no_image
from client.images import NII, NII_GZ, PNG, TIFF
from protocols.errors import BadInputError

_START_BYTES: Final = 132  # DICOM PS3.10, 7.1: a preamble of 128 bytes, then "DICM"
_NPY_MAGIC: Final = b"\x93NUMPY"
_OWN_FORMS: Final = (PNG, *TIFF, NII, NII_GZ)  # formats whose results are written in the same form
_NAME_BYTES: Final = 255  # what Linux's file systems allow


@dataclass(frozen=True)
class Found:
    """One file of the folder: an image if `output` is set; otherwise `no_image` or `refused` says why it is not denoised."""

    name: str  # relative to the folder
    path: Path
    output: str = ""  # relative to the output folder
    no_image: str = ""
    refused: str = ""


def find_images(folder: Path, output: Path) -> list[Found]:
    """Every file under `folder`, in a fixed order, without what lies under `output`.

    Raises BadInputError: the folder cannot be read, or is the output folder or inside it, where results would replace sources.
    """
    root, results = folder.resolve(), output.resolve()
    if root == results or root.is_relative_to(results):
        raise BadInputError(f"the output folder {output} is {folder} itself or holds it: name another, or one inside it")
    try:
        os.listdir(folder)
    except OSError as error:
        raise BadInputError(f"{folder} cannot be read: {error.strerror or error}") from error
    return _without_collisions([_describe(folder, path) for path in _walk(folder, results)])


def shown(name: str) -> str:
    """A file's name for a terminal: control characters and bytes that are no text are written out."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in name)


def _walk(folder: Path, results: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=_unreadable, followlinks=False):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = sorted(
            name for name in folders if name not in links and not name.startswith(".") and (here / name).resolve() != results
        )
        for name in sorted(files + links):
            yield here / name


def _unreadable(error: OSError) -> None:
    raise BadInputError(f"{error.filename} cannot be read: {error.strerror or error}; nothing was denoised") from error


def _describe(folder: Path, path: Path) -> Found:
    name = str(path.relative_to(folder))
    if path.name.startswith("."):
        return Found(name, path, no_image="a hidden file")
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return Found(name, path, no_image="a link to a folder, which is not followed")
        if not stat.S_ISREG(mode):
            return Found(name, path, no_image="not a regular file")
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
        if not start:
            return Found(name, path, no_image="an empty file")
        suffix = _suffix(start)
        no_image = why_no_image(path) if suffix == ".dcm" else ""
    except FileNotFoundError:
        return Found(name, path, no_image="a link to nothing, or gone meanwhile")
    except OSError as error:
        return Found(name, path, refused=f"cannot be read: {error.strerror or error}")
    if no_image:
        return Found(name, path, no_image=no_image)
    output = _result_name(name, suffix)
    if len(os.fsencode(Path(output).name)) > _NAME_BYTES:
        return Found(name, path, refused=f"the result's name would be longer than {_NAME_BYTES} bytes: rename the file")
    return Found(name, path, output=output)


def _suffix(start: bytes) -> str:
    """The one suffix that fits what the file holds; empty: that of its name will do."""
    if start.endswith(b"DICM") and len(start) == _START_BYTES:
        return ".dcm"
    return ".npy" if start.startswith(_NPY_MAGIC) else ""


def _result_name(name: str, suffix: str) -> str:
    fitting = (suffix,) if suffix else _OWN_FORMS
    return name if name.lower().endswith(fitting) else name + (suffix or ".npy")


def _without_collisions(found: list[Found]) -> list[Found]:
    """`scan` and `scan.dcm` may both want to become `scan.dcm`: the one that bears the name gets it, the other is refused."""
    owner = {image.output: image.name for image in sorted(found, key=lambda image: image.name == image.output) if image.output}
    return [
        image
        if not image.output or owner[image.output] == image.name
        else Found(image.name, image.path, refused=f"its result would replace that of {owner[image.output]}: rename one of them")
        for image in found
    ]
