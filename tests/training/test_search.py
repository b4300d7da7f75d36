"""The search: equal time, resumable, and a table that ranks."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocols.errors import ConfigurationError
from training import search, timing
from training.__main__ import app
from training.cost import network_cost
from training.search import Result, load_search, search_table

SEARCH = """
exclude = ["licensed"]
[patches]
batch = 2
side = 16
[fit]
steps = 0
cpu_minutes = 0.002
warmup_steps = 1
[pressure]
batch = 1
side = 16
[validation]
slices = 1
[candidates.flat]
channels = 4
blocks = 1
block = "direct"
[candidates.peer]
family = "dncnn"
channels = 4
depth = 3
"""


@pytest.fixture
def options(tmp_path: Path, images_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(timing, "CALIBRATION_SECONDS", 0.05)
    (tmp_path / "search.toml").write_text(SEARCH)
    places = [
        "--runs",
        str(tmp_path / "runs"),
        "--results",
        str(tmp_path / "results"),
        "--output",
        str(tmp_path / "search.md"),
        "--images",
        str(images_folder),
    ]
    return ["search", "--config", str(tmp_path / "search.toml"), *places]


def test_every_candidate_is_trained_once_and_stands_in_the_table(tmp_path: Path, options: list[str]) -> None:
    runner = CliRunner()
    first = runner.invoke(app, [*options, "--only", "flat"])
    assert first.exit_code == 0, first.output
    assert "peer has no result yet" in first.output
    result = tmp_path / "results" / "flat.json"
    (kept,) = (tmp_path / "runs" / "flat").glob("*/steps.json")
    written, steps = result.stat().st_mtime_ns, json.loads(kept.read_text())["steps"]

    both = runner.invoke(app, options)
    assert both.exit_code == 0, both.output
    assert result.stat().st_mtime_ns == written  # a finished candidate is not trained again
    assert json.loads(result.read_text())["steps"] == steps
    table = (tmp_path / "search.md").read_text()
    assert "| flat |" in table
    assert "| peer |" in table

    result.write_text("{}")
    damaged = runner.invoke(app, options)
    assert damaged.exit_code == 3
    assert "flat.json is no result of the search" in damaged.output


def test_a_result_of_other_settings_is_said_and_trained_again(tmp_path: Path, options: list[str]) -> None:
    runner, config = CliRunner(), tmp_path / "search.toml"
    only = [*options, "--only", "flat"]
    assert runner.invoke(app, only).exit_code == 0
    result = tmp_path / "results" / "flat.json"
    before = json.loads(result.read_text())

    config.write_text(SEARCH.replace("warmup_steps = 1", "warmup_steps = 1\nlearning_rate = 5e-4"))
    other = runner.invoke(app, [*options, "--only", "peer"])  # which leaves flat alone, but does not show it either
    assert other.exit_code == 0, other.output
    assert "flat.json is a result of other settings" in other.stderr
    assert "| flat |" not in other.stdout
    assert json.loads(result.read_text()) == before

    again = runner.invoke(app, only)
    assert again.exit_code == 0, again.output
    assert "flat.json is a result of other settings" in again.stderr
    assert "| flat |" in again.stdout
    after = json.loads(result.read_text())
    assert after["fingerprint"] != before["fingerprint"]
    assert len(list((tmp_path / "runs" / "flat").iterdir())) == 2  # nothing of the old run was gone on with

    quiet = runner.invoke(app, only)
    assert "other settings" not in quiet.stderr
    assert json.loads(result.read_text()) == after


@pytest.mark.parametrize("change", ["cpu_minutes = 0.003", "cpu_minutes = 0.002\nseed = 2"])
def test_the_fingerprint_is_of_the_settings_and_not_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    def fingerprints(text: str) -> dict[str, str]:
        (tmp_path / "search.toml").write_text(text)
        return {one.name: one.fingerprint for one in load_search(tmp_path / "search.toml")[1]}

    before = fingerprints(SEARCH)
    assert before["flat"] != before["peer"]
    assert fingerprints(SEARCH.replace("candidates.flat", "candidates.plain"))["plain"] == before["flat"]
    assert fingerprints(SEARCH.replace("cpu_minutes = 0.002", change))["flat"] != before["flat"]
    monkeypatch.setattr(search, "METHOD", search.METHOD + 1)
    assert fingerprints(SEARCH)["flat"] != before["flat"]


def test_the_results_of_the_repository_are_of_its_search() -> None:
    _, candidates = load_search(Path("training/search.toml"))
    told: list[str] = []
    search.collect(candidates, Path("training/results"), told.append)
    assert not [line for line in told if "other settings" in line]


def test_a_candidate_that_is_not_in_the_file_is_refused(options: list[str]) -> None:
    answer = CliRunner().invoke(app, [*options, "--only", "wide"])
    assert answer.exit_code == 4
    assert "has no candidate wide" in answer.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fit]\ncpu_minutes = 1", "nothing to search"),
        ("[fit]\nsteps = 0\n[candidates.a]", "so that all get the same time"),
        ("[fit]\ncpu_minutes = 1\n[candidates.a]", "so that all get the same time"),
        ("[candidates.a]\nblock = 'relu'", "known are nafnet, gate, direct"),
        ("[candidates.a]\nfamily = 'unet'", "must be gated or dncnn"),
    ],
)
def test_wrong_search_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_search(tmp_path / "wrong.toml")


def test_the_candidates_of_the_repository_keep_to_the_budget() -> None:
    _, candidates = load_search(Path("training/search.toml"))
    for candidate in candidates:
        cost = network_cost(candidate.settings.build_network())
        small = candidate.name.startswith("small")
        assert cost.wires_per_pixel <= (100 if small else 240), candidate.name
        assert cost.macs_per_pixel <= 45_000, candidate.name


def test_the_best_stands_first_and_a_diverged_one_last() -> None:
    def result(name: str, *psnr: float) -> Result:
        return Result(name, "", 10.0, 100.0, 5, 50, 9, 60.0, 0, 0, psnr, 2.0)

    rows = search_table([result("lost"), result("good", 30, 28, 25), result("better", 29, 29, 25)], 1.0).splitlines()[4:]
    assert [row.split(" | ")[0] for row in rows] == ["| better", "| good", "| lost"]
    assert "diverged" in rows[2]
