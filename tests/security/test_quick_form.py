"""The short form of the security evaluation, one evaluation a test: what `python -m security --quick` runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from security.__main__ import EVALUATIONS

SECONDS = 580  # the whole short form is promised in less; one evaluation hangs long before


@pytest.mark.evaluation
@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_check_holds_and_fails_on_its_twin(name: str, tmp_path: Path):
    command = [sys.executable, "-m", "security", "--quick", "--only", name, "--out", str(tmp_path), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode in (0, 1), done.stderr[-4000:]
    report = json.loads(done.stdout)
    (section,) = report["evaluations"]
    failed = [check for check in section.get("checks", ()) if not check["passed"]]
    assert not failed, json.dumps(failed, indent=1)
    assert section.get("checks"), section
    assert done.returncode == 0
