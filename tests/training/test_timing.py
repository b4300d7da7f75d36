"""A number of steps is measured once; what states its own is left alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from protocols.errors import BadInputError, ConfigurationError
from training import timing
from training.architecture import GatedShape
from training.images import PatchSettings, load_series
from training.settings import FitSettings, PressureSettings, Settings
from training.timing import timed

SETTINGS = Settings(
    network=GatedShape(channels=4, blocks=1),
    patches=PatchSettings(batch=1, side=16),
    fit=FitSettings(steps=0, cpu_minutes=0.01),
    pressure=PressureSettings(strength=0.0),
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
