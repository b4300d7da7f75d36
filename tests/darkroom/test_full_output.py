"""Standard output that takes nothing: one sentence and exit code 4, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow  # starts the command, which takes seconds
@pytest.mark.parametrize("unbuffered", ["", "1"])  # a write fails at once, or when the buffer is written out
@pytest.mark.parametrize("arguments", [["sample", "scan.dcm"], ["--version"], ["store", "--help"]])
def test_a_full_disk(tmp_path: Path, arguments: list[str], unbuffered: str) -> None:
    command = [sys.executable, "-m", "darkroom", *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stderr.endswith("darkroom: standard output cannot be written: No space left on device\n")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
