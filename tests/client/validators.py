"""Independent validators of DICOM files: dicom3tools' dciodvfy and DCMTK's dcmftest and dcmdump."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAMS = ("dciodvfy", "dcmftest", "dcmdump")


def require_validators() -> None:
    """Skip a test where a program is missing; CI installs all of them."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; on Debian and Ubuntu: apt install dcmtk dicom3tools")


def iod_errors(path: Path) -> set[str]:
    """What dciodvfy finds wrong with a file."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False, errors="replace")  # noqa: S607
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


def parses(path: Path) -> bool:
    """Whether DCMTK takes it for a DICOM file and reads it to its end."""
    test = subprocess.run(["dcmftest", str(path)], capture_output=True, text=True, timeout=60, check=False)  # noqa: S607
    dump = subprocess.run(["dcmdump", "-q", str(path)], capture_output=True, timeout=60, check=False)  # noqa: S607
    return test.stdout.startswith("yes") and dump.returncode == 0 and b"(7fe0,0010)" in dump.stdout
