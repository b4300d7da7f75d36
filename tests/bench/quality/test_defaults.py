"""What is judged and drawn without being named; what is missing is said, with how to make it."""

import json
import sys
from pathlib import Path

import pytest

from bench.quality import __main__ as command
from bench.quality import defaults
from bench.quality.figures import validations


def touched(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def log(path: Path, *events: str) -> Path:
    figures = {"cpu_seconds": 90.0, "psnr_out_db": 30.0}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"event": event, **figures}) + "\n" for event in events))
    return path


def test_shipped_networks_come_first_and_the_trained_peer_last(tmp_path: Path) -> None:
    shipped, runs = tmp_path / "models", tmp_path / "runs"
    base, small = touched(shipped, "base.safetensors", "small.safetensors")
    alone = defaults.models(shipped, runs)
    assert alone.paths == (base, small)
    assert "python -m training --config training/configs/dncnn.toml" in alone.missing[0]
    (dncnn,) = touched(runs, "dncnn/dncnn.safetensors")
    assert defaults.models(shipped, runs) == defaults.Found((base, small, dncnn))


def test_networks_of_photographs_are_their_own_kind(tmp_path: Path) -> None:
    models, runs = tmp_path / "models", tmp_path / "runs"
    assert "training/configs/natural.toml --output" in defaults.natural(models, runs).missing[0]
    (ours,) = touched(models, "natural.safetensors")
    alone = defaults.natural(models, runs)
    assert alone.paths == (ours,)
    assert "training/configs/natural-dncnn.toml" in alone.missing[0]
    (peer,) = touched(runs, "natural-dncnn/natural-dncnn.safetensors")
    assert defaults.natural(models, runs) == defaults.Found((ours, peer))


def test_the_networks_of_this_clone_are_found() -> None:
    assert [path.stem for path in defaults.models().paths][:2] == ["base", "small"]
    assert defaults.natural().paths[0].exists()


def test_logs_of_runs_that_were_validated_are_drawn(tmp_path: Path) -> None:
    assert "training/configs/base.toml" in defaults.logs(tmp_path).missing[0]
    done = log(tmp_path / "base" / "log.jsonl", "step", "validation")
    early = log(tmp_path / "small" / "log.jsonl", "step")
    found = defaults.logs(tmp_path)
    assert found.paths == (done,)
    assert str(early) in found.missing[0]


def test_a_log_that_is_being_written_is_read_so_far(tmp_path: Path) -> None:
    going = log(tmp_path / "log.jsonl", "step", "validation")
    with going.open("a") as file:
        file.write('{"event": "validat')
    assert validations(going) == [(1.5, 30.0)]
    with going.open("a") as file:  # it was cut there, and goes on
        file.write('{"event": "step", "cpu_seconds": 1}\n{"event": "validation", "psnr_out_db": 31.0}\n')
    assert validations(going) == [(1.5, 30.0), (1.5, 31.0)]


def test_bm3d_is_missed_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "make quality" in defaults.peers().missing[0]
    assert defaults.peers(["BM3D"]) == defaults.Found(())


def test_the_configurations_that_are_named_are_there() -> None:
    for name in (defaults.DNCNN, defaults.NATURAL, defaults.NATURAL_DNCNN, "base"):
        assert Path(f"training/configs/{name}.toml").exists()


def test_the_command_fills_in_what_is_not_named_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (model,) = touched(tmp_path, "base.safetensors")
    monkeypatch.setattr(defaults, "models", lambda: defaults.Found((model,), ("a peer: train it",)))
    monkeypatch.setattr(defaults, "logs", lambda: defaults.Found((), ("a log: make one",)))
    monkeypatch.setattr(sys, "argv", ["quality", "--natural"])
    asked = command._arguments()
    assert (asked.models, asked.natural, asked.log, asked.shares) == ([model], [], [], 128)
    said = capsys.readouterr().err
    assert "not found: a peer: train it" in said
    assert "not found: a log: make one" in said
    assert "photographs" not in said  # none were asked for

    monkeypatch.setattr(sys, "argv", ["quality", "--models", "mine", "--log", "--natural", "--shares", "0"])
    asked = command._arguments()
    assert (asked.models, asked.log, asked.shares) == ([Path("mine")], [], 0)
    assert "train it" not in capsys.readouterr().err
