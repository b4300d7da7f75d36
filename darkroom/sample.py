"""A real medical image to try things with: an abdominal MR, 300x484, that pydicom ships in its own wheel."""

from pathlib import Path
from typing import Final

from pydicom.data import get_testdata_file

from client.files import read_file, replacing
from protocols.errors import ConfigurationError

NAME: Final = "examples_overlay.dcm"


def sample_image() -> Path:
    """Where pydicom keeps it. Raises ConfigurationError: pydicom came without it."""
    found = get_testdata_file(NAME, download=False)
    if not isinstance(found, str):
        raise ConfigurationError(f"pydicom came without its test image {NAME}: reinstall pydicom, or use an image of your own")
    return Path(found)


def write_sample(path: Path) -> None:
    """Copy it to `path`, over nothing. Raises ConfigurationError: the file exists, or cannot be written."""
    if path.exists():
        raise ConfigurationError(f"{path} exists and is not overwritten: name another file")
    content = read_file(sample_image(), "pydicom's test image")
    with replacing(path) as file:
        file.write(content)
