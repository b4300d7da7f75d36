"""A run that is cut and resumed is the run that was not cut; a loss that explodes does no harm."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from client.model_file import load_model
from protocols.errors import BadInputError, ConfigurationError
from training import bounds, fit
from training.architecture import GatedShape
from training.checkpoint import load_checkpoint
from training.export import export_model
from training.fit import Fitting, Outcome, TrainingDivergedError, learning_rate
from training.images import PatchSettings, Series, load_series
from training.settings import FitSettings, PressureSettings, Settings, ValidationSettings

SETTINGS = Settings(
    network=GatedShape(channels=4, blocks=1),
    patches=PatchSettings(batch=2, side=16),
    fit=FitSettings(steps=8, warmup_steps=2, log_every=1, checkpoint_every=2, validate_every=4, average_decay=0.5, bad_steps=2),
    pressure=PressureSettings(batch=2, side=16),
    validation=ValidationSettings(slices=1),
)


class Cut(Exception):
    """Stands for the end of the process at an arbitrary step."""


@pytest.fixture
def series(images_folder: Path) -> tuple[list[Series], list[Series]]:
    return load_series(images_folder, "train"), load_series(images_folder, "validation")


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return []


def run(
    series: tuple[list[Series], list[Series]], folder: Path, events: list[dict[str, Any]], settings: Settings = SETTINGS
) -> Outcome:
    return Fitting(settings, *series, folder, events.append).run()


def names_of(events: list[dict[str, Any]]) -> list[str]:
    return [entry["event"] for entry in events]


LOOKING = PressureSettings(
    batch=4, side=16, limit=0.5, looked_at=6, look_every=3, kept=4
)  # for offenders, which are in use when cut


@pytest.mark.parametrize("cut_at", [3, 6])
@pytest.mark.parametrize("pressure", [SETTINGS.pressure, LOOKING], ids=["drawn", "found"])
def test_resuming_gives_the_weights_of_an_uninterrupted_run(
    series: tuple[list[Series], list[Series]],
    tmp_path: Path,
    events: list[dict[str, Any]],
    pressure: PressureSettings,
    cut_at: int,
) -> None:
    settings = replace(SETTINGS, pressure=pressure)

    def cut(entry: dict[str, Any]) -> None:
        if entry["event"] == "step" and entry["step"] == cut_at:
            raise Cut

    whole = run(series, tmp_path / "whole", events, settings)
    assert bool(whole.checkpoint.offenders) == bool(pressure.looked_at)
    with pytest.raises(Cut):
        Fitting(settings, *series, tmp_path / "cut", cut).run()
    resumed_events: list[dict[str, Any]] = []
    resumed = run(series, tmp_path / "cut", resumed_events, settings)

    assert resumed_events[0] == {"event": "resumed", "step": (cut_at - 1) // 2 * 2}
    assert resumed.finished
    assert resumed.checkpoint.best_psnr_db == whole.checkpoint.best_psnr_db
    for kind in ("weights", "average", "best"):
        expected, found = getattr(whole.checkpoint, kind), getattr(resumed.checkpoint, kind)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), kind


def test_used_up_time_stops_a_run_that_can_go_on(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    for step, limit in enumerate(({"minutes": 1e-9}, {"cpu_minutes": 1e-9}), start=1):
        stopped = run(series, tmp_path / str(step), events, replace(SETTINGS, fit=replace(SETTINGS.fit, **limit)))
        assert not stopped.finished
        assert stopped.checkpoint.step == 1

    assert run(series, tmp_path / "1", events).finished
    assert run(series, tmp_path / "run", events).finished


def spoil(monkeypatch: pytest.MonkeyPatch, value: float, calls: range) -> None:
    """Multiply the loss by `value` in these calls."""
    count, true_loss = iter(range(1000)), fit.loss_of

    def spoiled(*arguments: Any) -> Tensor:
        loss = true_loss(*arguments)
        return loss * value if next(count) in calls else loss

    monkeypatch.setattr(fit, "loss_of", spoiled)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_unusable_step_is_not_taken(
    series: tuple[list[Series], list[Series]],
    tmp_path: Path,
    events: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    spoil(monkeypatch, value, range(4, 5))

    outcome = run(series, tmp_path / "run", events)

    assert names_of(events).count("skipped") == 1
    assert outcome.checkpoint.skipped == 1
    assert outcome.checkpoint.restores == 0
    assert all(bool(torch.isfinite(weight).all()) for weight in outcome.checkpoint.weights.values())


def test_an_exploding_loss_is_not_learned_from(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "SETTLED_STEPS", 2)
    spoil(monkeypatch, 1e6, range(4, 5))

    run(series, tmp_path / "run", events)

    assert names_of(events).count("skipped") == 1


def test_several_unusable_steps_restore_the_checkpoint_at_half_the_rate(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, math.nan, range(4, 6))

    outcome = run(series, tmp_path / "run", events)

    restored = next(entry for entry in events if entry["event"] == "restored")
    assert restored == {"event": "restored", "step": 6, "from_step": 4, "rate_scale": 0.5}
    after = next(entry for entry in events if entry["event"] == "step" and entry["step"] == 7)
    assert after["rate"] == learning_rate(SETTINGS.fit, 6) / 2
    assert outcome.finished
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt").rate_scale == 0.5


def test_pressure_gets_its_share_of_every_step_and_no_more(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[dict[str, Tensor]] = []

    def seen(self: Any, rate: float) -> None:
        steps.append({name: weight.grad.clone() for name, weight in self.weights.items()})

    def gradients(folder: str, **pressed: Any) -> dict[str, Tensor]:
        steps.clear()
        run(series, tmp_path / folder, events, replace(one_step, pressure=replace(SETTINGS.pressure, limit=1e-3, **pressed)))
        return steps[0]

    monkeypatch.setattr(fit.Optimiser, "step", seen)
    one_step = replace(SETTINGS, fit=replace(SETTINGS.fit, steps=1))
    alone = gradients("alone", strength=0.0)
    capped = gradients("capped", strength=1e9, share=0.5)
    gentle = gradients("gentle", strength=1e-9, share=0.5)
    pushed = [name for name in alone if not torch.equal(capped[name], alone[name])]
    assert len(pushed) > len(alone) // 2
    for name in pushed:
        assert float((capped[name] - alone[name]).norm()) == pytest.approx(0.5 * float(alone[name].norm()), rel=1e-3)
        assert float((gentle[name] - alone[name]).norm()) < 1e-3 * float(alone[name].norm())


def test_lasting_divergence_is_an_error(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, fit=replace(SETTINGS.fit, max_restores=1))
    spoil(monkeypatch, math.nan, range(1000))

    with pytest.raises(TrainingDivergedError, match="lower fit.learning_rate"):
        run(series, tmp_path / "run", events, settings)


def test_a_checkpoint_of_other_settings_is_refused(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    run(series, tmp_path / "run", events)
    other = replace(SETTINGS, fit=replace(SETTINGS.fit, seed=2))
    with pytest.raises(BadInputError, match="other settings"):
        run(series, tmp_path / "run", events, other)


def test_a_damaged_checkpoint_is_named(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half of one")
    with pytest.raises(BadInputError, match=r"checkpoint\.pt is not a readable checkpoint"):
        run(series, tmp_path / "run", events)


def test_the_exported_file_loads(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "ASCENT_STEPS", 2)  # seconds, not a search
    monkeypatch.setattr(bounds, "ASCENT_RESTARTS", 1)
    outcome = run(series, tmp_path / "run", events)

    bound = export_model(tmp_path / "small.safetensors", outcome.network, outcome.checkpoint, series[1])

    model = load_model(tmp_path / "small.safetensors")
    assert replace(model.network, ranges=()) == outcome.network
    assert model.network.ranges
    assert model.bound == bound >= 2
    with safe_open(tmp_path / "small.safetensors", framework="pt") as file:
        wires = json.loads(file.metadata()["wire_bounds"])
    truncated = {layer.out for layer in outcome.network.layers if layer.op in ("conv", "gate")}
    assert truncated < wires.keys()
    assert bound <= max(wires.values()) < bound + 0.002
    json.dumps(events)  # what the log writes


def test_pressure_reaches_both_levels_of_a_u(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    network = GatedShape(channels=4, blocks=1, block="direct", outer=1)
    pressed = PressureSettings(batch=2, side=16, limit=1e-3)
    fitting = Fitting(replace(SETTINGS, network=network, pressure=pressed), *series, tmp_path / "run", events.append)
    assert {"left1", "block1", "joined", "right1", "exit.project"} <= set(fitting.pressed)
    assert fitting.run().finished
    assert events[0]["pressure"] > 1  # every wire is far beyond the limit


def test_images_that_climb_press_harder(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    pressed = replace(SETTINGS.pressure, batch=8, limit=0.25)
    for climb in (0, 2):
        run(series, tmp_path / str(climb), events, replace(SETTINGS, pressure=replace(pressed, climb=climb)))
    steps = [entry["pressure"] for entry in events if entry["event"] == "step"]
    plain, climbing = steps[:8], steps[8:]
    assert len(plain) == len(climbing) == 8
    assert climbing[0] > 1.05 * plain[0]  # the same weights and patterns


def test_found_offenders_press_where_drawn_images_do_not(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    for looked_at in (0, 64):
        pressed = replace(LOOKING, looked_at=looked_at, limit=1.0)
        run(series, tmp_path / str(looked_at), events, replace(SETTINGS, pressure=pressed))
    steps = [entry["pressure"] for entry in events if entry["event"] == "step"]
    assert sum(steps[8:]) > 1.2 * sum(steps[:8])


def test_every_so_many_th_step_presses(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    run(series, tmp_path / "run", events, replace(SETTINGS, pressure=replace(LOOKING, every=3, limit=1e-3)))
    pressed = [entry["step"] for entry in events if entry["event"] == "step" and entry["pressure"] > 0]
    assert pressed == [3, 6]  # of eight; every wire is far beyond the limit


@pytest.mark.parametrize("entry", ["every", "look_every"])
def test_pressure_at_every_noughth_step_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="every and look_every must be at least 1"):
        PressureSettings(**{entry: 0})


def test_without_strength_there_is_no_pressure(
    series: tuple[list[Series], list[Series]], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    run(series, tmp_path / "run", events, replace(SETTINGS, pressure=replace(SETTINGS.pressure, strength=0.0)))
    assert {entry["pressure"] for entry in events if entry["event"] == "step"} == {0.0}


def test_learning_rate_warms_up_and_decays() -> None:
    settings = FitSettings(steps=100, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.01)
    rates = [learning_rate(settings, step) for step in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.01)
