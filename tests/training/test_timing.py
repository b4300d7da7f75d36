"""A number of steps is measured once; what states its own is left alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from protocols.errors import BadInputError, ConfigurationError
from training import timing
from training.architecture import GatedShape
from training.fit import Fitting, learning_rate
from training.images import PatchSettings, load_series
from training.settings import FitSettings, PressureSettings, Settings, ValidationSettings
from training.timing import timed

SETTINGS = Settings(
    network=GatedShape(channels=4, blocks=1),
    patches=PatchSettings(batch=1, side=16),
    fit=FitSettings(steps=0, cpu_minutes=0.01),
    pressure=PressureSettings(strength=0.0),
    validation=ValidationSettings(slices=1),
)


def test_the_measured_number_is_kept(tmp_path: Path, images_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "CALIBRATION_SECONDS", 0.05)
    series = load_series(images_folder, "train")
    first = timed(SETTINGS, series, series, tmp_path / "run").fit
    kept = json.loads((tmp_path / "run" / "steps.json").read_text())
    assert first.steps == kept["steps"] == max(1, round(0.6 / kept["cpu_seconds_per_step"]))
    assert first.cpu_minutes == 0  # the steps decide now: the rate falls to its end

    (tmp_path / "run" / "steps.json").write_text('{"steps": 7}')
    assert timed(SETTINGS, series, series, tmp_path / "run").fit.steps == 7
    (tmp_path / "run" / "steps.json").write_text("seven")
    with pytest.raises(BadInputError, match="remove the folder to start again"):
        timed(SETTINGS, series, series, tmp_path / "run")


def test_steps_that_are_stated_are_taken(tmp_path: Path) -> None:
    stated = replace(SETTINGS, fit=FitSettings(steps=5, cpu_minutes=3.0))
    assert timed(stated, [], [], tmp_path / "run") is stated
    with pytest.raises(ConfigurationError, match="neither steps nor cpu_minutes"):
        timed(replace(SETTINGS, fit=FitSettings(steps=0)), [], [], tmp_path / "run")


def test_the_measured_number_repeats_the_run_where_it_is_stated(tmp_path: Path, images_folder: Path) -> None:
    training, validation = load_series(images_folder, "train"), load_series(images_folder, "validation")
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "steps.json").write_text('{"steps": 5}')
    measured = timed(SETTINGS, training, validation, tmp_path / "measured")
    stated = timed(replace(SETTINGS, fit=FitSettings(steps=5)), training, validation, tmp_path / "stated")
    assert not (tmp_path / "stated").exists()  # nothing is measured
    assert [learning_rate(measured.fit, step) for step in range(6)] == [learning_rate(stated.fit, step) for step in range(6)]

    outcomes = []
    for name, settings in (("measured", measured), ("stated", stated)):
        outcomes.append(Fitting(settings, training, validation, tmp_path / name, lambda _: None).run())
    first, second = (outcome.checkpoint for outcome in outcomes)
    assert first.fingerprint == second.fingerprint
    assert first.step == second.step == 5
    assert all(torch.equal(first.best[name], second.best[name]) for name in first.best)

    other = replace(stated, fit=replace(stated.fit, steps=6))
    assert Fitting(other, training, validation, tmp_path / "other", lambda _: None).state.fingerprint != first.fingerprint
