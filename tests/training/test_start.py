"""A run begins with another's best weights; what cannot be begun with is refused, with what to do."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from protocols.errors import BadInputError, ConfigurationError
from protocols.float_evaluation import evaluate_float
from tests.training.tiny_run import tiny_config
from training import bounds
from training.__main__ import app
from training.architecture import GatedShape, gated_network, initial_weights
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.start import start_weights

AT_REST = "learning_rate = 0.0\nfinal_learning_rate = 0.0"  # steps that change nothing

EMPTY = Checkpoint.at_start("")


class Runs:
    """Runs by name, each with a configuration of its own, under one folder."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder, self.images = folder, images

    def go(self, name: str, text: str, *more: str) -> tuple[int, str]:
        """The exit code, and what was said."""
        config = self.folder / f"{name}.toml"
        config.write_text(text)
        run = str(self.folder / name)
        answer = CliRunner().invoke(app, ["--config", str(config), "--images", str(self.images), "--run", run, *more])
        return answer.exit_code, answer.output

    def checkpoint(self, name: str) -> Checkpoint:
        return load_checkpoint(self.folder / name / "checkpoint.pt")

    def start(self, name: str) -> tuple[str, str]:
        return "--start", str(self.folder / name)


@pytest.fixture
def runs(tmp_path: Path, images_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(bounds, "ASCENT_STEPS", 2)  # seconds, not a search
    monkeypatch.setattr(bounds, "ASCENT_RESTARTS", 1)
    return Runs(tmp_path, images_folder)


def test_a_run_begins_with_the_best_weights_of_another_and_goes_on_only_from_the_same(runs: Runs) -> None:
    assert runs.go("first", tiny_config())[0] == 0
    code, said = runs.go("second", tiny_config(AT_REST), *runs.start("first"))
    assert code == 0, said
    begun, reached = runs.checkpoint("first").best, runs.checkpoint("second").best
    assert begun.keys() == reached.keys()
    assert all(torch.equal(begun[name], reached[name]) for name in begun)

    assert runs.go("second", tiny_config(AT_REST), *runs.start("first"))[0] == 0  # which finds it finished
    code, said = runs.go("second", tiny_config(AT_REST))
    assert code == 3
    assert "--start must then be given again" in said

    code, said = runs.go("new", tiny_config("seed = 2"))
    assert code == 0, said
    code, said = runs.go("second", tiny_config(AT_REST), *runs.start("new"))
    assert code == 3
    assert "--start names another run, or that run has gone on since" in said
    assert "choose another --run folder" in said


def test_a_run_that_was_not_validated_yet_is_no_start(runs: Runs) -> None:
    code, said = runs.go("first", tiny_config(), "--minutes", "0")
    assert code == 0, said
    assert not runs.checkpoint("first").best
    code, said = runs.go("second", tiny_config(), *runs.start("first"))
    assert code == 3
    assert "go on with that run first" in said
    assert not (runs.folder / "second").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (GatedShape(channels=8, blocks=1), r"is \(4,.* there and \(8,.* here; give --start a run of the same \[network\]"),
        (GatedShape(channels=4, blocks=2), r"block2.* is missing there and \(4,"),
        (GatedShape(channels=4, blocks=1, block="direct"), "is of another network"),
    ],
)
def test_a_run_of_another_network_is_no_start(runs: Runs, other: GatedShape, message: str) -> None:
    assert runs.go("first", tiny_config())[0] == 0
    with pytest.raises(ConfigurationError, match=message):
        start_weights(runs.folder / "first", gated_network(other))


def test_a_folder_without_a_run_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="--start takes the folder of a run"):
        start_weights(tmp_path, gated_network(GatedShape(channels=4, blocks=1)))
    (tmp_path / "checkpoint.pt").write_bytes(b"half of one")
    with pytest.raises(BadInputError, match="not a readable checkpoint"):
        start_weights(tmp_path, gated_network(GatedShape(channels=4, blocks=1)))


def test_a_network_with_larger_kernels_begins_as_the_same_function(tmp_path: Path) -> None:
    small, large = (gated_network(GatedShape(channels=4, blocks=2, block="direct", outer=1, kernel=kernel)) for kernel in (3, 5))
    weights = initial_weights(small, 0)
    save_checkpoint(tmp_path / "checkpoint.pt", replace(EMPTY, best=weights))
    begun = start_weights(tmp_path, large)
    assert {name: tuple(weight.shape) for name, weight in begun.items()} == dict(large.parameter_shapes())
    images, sigma = torch.rand(2, 1, 24, 28), torch.tensor([0.1, 0.2])
    assert torch.allclose(evaluate_float(large, begun, images, sigma), evaluate_float(small, weights, images, sigma), atol=1e-6)


def test_kernels_do_not_shrink_and_stay_centred(tmp_path: Path) -> None:
    shape = GatedShape(channels=4, blocks=2, block="direct", outer=1, kernel=5)
    save_checkpoint(tmp_path / "checkpoint.pt", replace(EMPTY, best=initial_weights(gated_network(shape), 0)))
    with pytest.raises(ConfigurationError, match="of another network"):
        start_weights(tmp_path, gated_network(replace(shape, kernel=3)))
