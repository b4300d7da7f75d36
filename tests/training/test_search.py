"""The search: equal time, resumable, and a table that ranks."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocols.errors import ConfigurationError
from training import timing
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
    written, steps = result.stat().st_mtime_ns, json.loads((tmp_path / "runs" / "flat" / "steps.json").read_text())["steps"]

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
        return Result(name, 10.0, 100.0, 5, 50, 9, 60.0, 0, 0, psnr, 2.0)

    rows = search_table([result("lost"), result("good", 30, 28, 25), result("better", 29, 29, 25)], 1.0).splitlines()[4:]
    assert [row.split(" | ")[0] for row in rows] == ["| better", "| good", "| lost"]
    assert "diverged" in rows[2]
