"""The command: what it refuses at once, and one small run of it with live servers."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import results as kept
from bench.__main__ import main
from bench.results import Place
from bench.tables import BEGIN, END
from tests.bench.made_up_results import made_up


def test_an_unknown_engine_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--engines", "masked,abacus"])
    assert "abacus: unknown; known are masked" in capsys.readouterr().err


def test_the_report_is_written_from_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.save(tmp_path / "results.json", made_up())
    page = tmp_path / "benchmarks.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr("bench.__main__.PAGE", page)
    assert main(["--report", str(tmp_path / "results.json")]) == 0
    assert "(benchmarks/dncnn-loopback.svg)" in page.read_text()
    assert (tmp_path / "benchmarks" / "dncnn-loopback.svg").exists()


def test_results_of_another_machine_are_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    kept.save(path, made_up())
    before = path.read_bytes()
    assert main(["--json", str(path)]) == 2
    assert "processor was made up and is" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.integration
@pytest.mark.slow
def test_a_small_run_and_its_continuation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """20 s on two busy cores; the second time, in this process, finds everything done."""
    path = tmp_path / "results.json"
    small = "--networks base --sizes 32 --repetitions 1 --engines masked,plaintext --lines loopback"
    arguments = [*small.split(), "--json", str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))}
    first = subprocess.run([sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, env=environment)
    assert first.returncode == 0, first.stderr
    results = kept.load(path)
    assert results.origins[0].startswith(f"{datetime.now(UTC).year}-")
    row = results.medians("base", "masked", 32, "loopback")
    assert row is not None
    assert row["max_abs_diff"] < 1 / 4095
    assert row["offline_seconds"] > 0
    assert "| 32 | Darkroom, masked" in first.stdout
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert (
        json.loads(path.read_text())["cells"][str(Place("base", "loopback", 32, "masked"))]["rows"]
        == results.cells[Place("base", "loopback", 32, "masked")].rows
    )
