"""Which device is chosen; that a run moves all it learns from there, and leaves nothing of it in its checkpoints.

No machine of ours has CUDA: the test that needs it is skipped. A second name of the CPU stands for another device.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typer.testing import CliRunner

from protocols.errors import ConfigurationError
from training.__main__ import app
from training.architecture import GatedShape
from training.checkpoint import load_checkpoint
from training.device import CPU, Device, choose_device, on_device
from training.fit import Fitting, Outcome
from training.images import PatchSettings, Series, load_series
from training.settings import FitSettings, PressureSettings, Settings, ValidationSettings

OTHER = torch.device("cpu", 0)
SETTINGS = Settings(
    network=GatedShape(channels=4, blocks=1),
    patches=PatchSettings(batch=2, side=16),
    fit=FitSettings(steps=4, warmup_steps=2, checkpoint_every=2, validate_every=2, precision="bfloat16"),
    pressure=PressureSettings(batch=2, side=16),
    validation=ValidationSettings(slices=1),
)


class Moves(TorchFunctionMode):
    """Counts the tensors that are moved to OTHER, or made there, by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[tuple[int, ...], int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and OTHER in (*args[1:], kwargs.get("device")):
            self.shapes[tuple(out.shape)] = self.shapes.get(tuple(out.shape), 0) + 1
        return out


def run(folder: Path, images: Path, settings: Settings, device: torch.device) -> Outcome:
    series: list[Series] = load_series(images, "train")
    return Fitting(settings, series, load_series(images, "validation"), folder, lambda _: None, device).run()


@pytest.mark.parametrize("there", [False, True])
def test_auto_takes_an_accelerator_where_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device(Device.AUTO).type == ("cuda" if there else "cpu")
    assert choose_device(Device.CPU) == CPU
    if there:
        assert choose_device(Device.CUDA).type == "cuda"
    else:
        with pytest.raises(ConfigurationError, match="finds no CUDA device"):
            choose_device(Device.CUDA)


def test_the_command_refuses_a_device_that_is_not_there(
    tmp_path: Path, images_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "tiny.toml").write_text("[fit]\nsteps = 1\n")
    options = ["--config", str(tmp_path / "tiny.toml"), "--images", str(images_folder), "--run", str(tmp_path / "run")]
    refused = CliRunner().invoke(app, [*options, "--device", "cuda"])
    assert refused.exit_code == 4
    assert "finds no CUDA device" in refused.output
    assert not (tmp_path / "run").exists()


def test_a_run_moves_what_it_learns_from_and_gives_the_same_weights(tmp_path: Path, images_folder: Path) -> None:
    here = run(tmp_path / "here", images_folder, SETTINGS, CPU)
    with Moves() as moves:
        there = run(tmp_path / "there", images_folder, SETTINGS, OTHER)

    assert moves.shapes[(2, 1, 16, 16)] == 3 * 4  # noisy and clean patches of four steps, and hostile images
    assert moves.shapes[(2,)] >= 2 * 4  # their levels
    for weight in there.checkpoint.weights.values():
        assert moves.shapes[tuple(weight.shape)] >= 1
    assert all(torch.equal(weight, there.checkpoint.weights[name]) for name, weight in here.checkpoint.weights.items())


def test_a_run_may_go_on_on_another_device(tmp_path: Path, images_folder: Path) -> None:
    whole = run(tmp_path / "whole", images_folder, SETTINGS, CPU)
    cut = replace(SETTINGS, fit=replace(SETTINGS.fit, minutes=1e-9))  # one step
    run(tmp_path / "cut", images_folder, cut, OTHER)
    again = run(tmp_path / "cut", images_folder, SETTINGS, CPU)
    assert again.finished
    assert all(torch.equal(weight, again.checkpoint.best[name]) for name, weight in whole.checkpoint.best.items())


def test_trees_are_moved_whole() -> None:
    tree = {"state": {0: {"step": torch.zeros(1), "rate": 0.1}}, "groups": [{"params": [0, 1]}, torch.ones(2)]}
    with Moves() as moves:
        moved = on_device(tree, OTHER)
    assert moves.shapes == {(1,): 1, (2,): 1}
    assert moved["state"] == tree["state"]
    assert moved["groups"][0] == tree["groups"][0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_cuda_began_the_cpu_ends(tmp_path: Path, images_folder: Path) -> None:
    cut = replace(SETTINGS, fit=replace(SETTINGS.fit, minutes=1e-9))
    run(tmp_path / "run", images_folder, cut, torch.device("cuda"))
    found = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    tensors = [*found.weights.values(), *found.average.values()]
    tensors += [value for part in found.optimiser for state in part["state"].values() for value in state.values()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert run(tmp_path / "run", images_folder, SETTINGS, CPU).finished
