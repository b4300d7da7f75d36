"""The command line: train, resume, export and measure on tiny images; errors have messages and exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from client.model_file import load_model, save_model
from protocols.errors import ConfigurationError
from tests.training.tiny_run import tiny_config
from training import bounds
from training.__main__ import app
from training.settings import Settings, load_settings


@pytest.fixture
def options(tmp_path: Path, images_folder: Path) -> list[str]:
    (tmp_path / "tiny.toml").write_text(tiny_config())
    return ["--config", str(tmp_path / "tiny.toml"), "--images", str(images_folder), "--run", str(tmp_path / "run")]


def test_train_export_and_measure(
    tmp_path: Path, images_folder: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "ASCENT_STEPS", 2)  # seconds, not a search
    monkeypatch.setattr(bounds, "ASCENT_RESTARTS", 1)
    runner, model = CliRunner(), tmp_path / "tiny.safetensors"

    trained = runner.invoke(app, [*options, "--output", str(model)])
    assert trained.exit_code == 0, trained.output
    assert "finished: step 2" in trained.stdout
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1  # one validation, at the end

    before = load_model(model)
    exported = runner.invoke(app, ["export", *options])
    assert exported.exit_code == 0, exported.output
    after = load_model(tmp_path / "run" / "tiny.safetensors")
    assert all(torch.equal(after.weights[name], weight) for name, weight in before.weights.items())

    named = [layer.out for layer in after.network.layers if layer.op in ("conv", "gate")]
    assert [name for name, _ in after.network.ranges] == sorted(named)
    again = runner.invoke(app, ["ranges", "--model", str(tmp_path / "run" / "tiny.safetensors")])
    assert again.exit_code == 0, again.output
    ranged = load_model(tmp_path / "run" / "tiny.safetensors")
    assert (ranged.network.layers, ranged.bound) == (after.network.layers, after.bound)
    assert ranged.network.ranges == after.network.ranges  # what the slices showed counts again

    measured = runner.invoke(app, ["measure", "--model", str(model), "--images", str(images_folder), "--json", "-"])
    assert measured.exit_code == 0, measured.output
    report = json.loads(measured.stdout)
    assert [row["sigma"] for row in report["quality"]["all"]] == [5, 15, 25, 50]
    assert report["stated_bound"] == max(report["bounds"]["wires"].values())
    assert report["exactness"]["difference"] < 1 / 4095

    held = tmp_path / "held.toml"
    held.write_text('only = ["ct_small"]\nhold_back = 2\n')
    options = ["measure", "--model", str(model), "--images", str(images_folder), "--config", str(held), "--slices", "5"]
    measured = runner.invoke(app, options)
    assert measured.exit_code == 0, measured.output
    assert "| train/ct_small | 5 | 1 |" in measured.stdout
    assert "By wire: " in measured.stdout
    assert "within what is allowed" in measured.stdout


def test_errors_have_exit_codes(tmp_path: Path, options: list[str]) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["--images", str(tmp_path)]).exit_code == 2
    missing = runner.invoke(app, [*options, "--images", str(tmp_path / "nowhere")])
    assert missing.exit_code == 3
    assert "pass the image folder with --images" in missing.output
    (tmp_path / "tiny.toml").write_text("[fit]\nstep = 2\n")
    assert runner.invoke(app, options).exit_code == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "cannot read"),
        ("[fit]\nstep = 1", r"\[fit\] has no entry 'step'"),
        ("[fit]\nsteps = 1.5", "steps must be a number"),
        ("[fit]\nsteps = true", "steps must be a number"),
        ("[fits]", "unknown entries fits"),
        ("fit = 3", "must be a table"),
        ("exclude = 'x'", "must be a list"),
        ("only = 'x'", "must be a list"),
        ("hold_back = 1", "hold_back must be 0 or a whole number from 2"),
        ("[network]\nblock = 3", "block must be a text"),
        ("[network]\nfamily = 'dncnn'\nblocks = 3", r"\[network\] has no entry 'blocks'"),
    ],
)
def test_wrong_configurations_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_settings(tmp_path / "wrong.toml")


def test_an_empty_configuration_has_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    assert load_settings(tmp_path / "empty.toml") == Settings()


def test_phantoms_show_where_fixed_point_is_too_coarse(tmp_path: Path) -> None:
    model = load_model(Path("darkroom/models/small.safetensors"))
    ranges = tuple((name, replace(wire, frac_bits=8)) for name, wire in model.network.ranges)
    coarse = tmp_path / "coarse.safetensors"
    save_model(coarse, replace(model.network, ranges=ranges), model.weights, bound=model.bound)
    for path, beyond in ((coarse, "1 of 1"), (Path("darkroom/models/small.safetensors"), "0 of 1")):
        done = CliRunner().invoke(app, ["phantoms", "--model", str(path), "--side", "32", "--draws", "1"])
        assert done.exit_code == 0, done.output
        assert [line.split("beyond it in ")[1] for line in done.stdout.splitlines()] == [f"{beyond} draws"] * 3
