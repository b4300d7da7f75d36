"""The harness from images to report; both packing modes; means and worst cases."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.quality import __main__ as command
from bench.quality import packing_modes, page
from bench.quality.metrics import Merit
from bench.quality.networks import Judged
from bench.quality.packing_modes import both_modes
from bench.quality.real_noise import RealNoise
from bench.quality.trials import NOISY, Subject, Trial, means, worst
from client.model_file import Model, save_model
from protocols.layers import Conv
from protocols.network import IMAGE_WIRE, Network
from training.architecture import GatedShape, gated_network, initial_weights
from training.cost import network_cost


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Small series of soft discs, 48x52: three subjects, and photographs that stand for all."""
    rows, columns = np.mgrid[:48, :52]
    discs = [900 * np.exp(-((((rows - 24) / 12) ** 2 + ((columns - 20 - step) / 14) ** 2) ** 2)) for step in range(4)]
    names = {"validation/discs": 1, "train/one": 1, "train/two": 1, "train/natural_bsd400": 5}
    for name, repeats in names.items():
        path = tmp_path / "images" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=np.round(discs * repeats).astype(np.int16))
    (tmp_path / "images" / "index.json").write_text(json.dumps({name: {"modality": "CT"} for name in names}))
    return tmp_path / "images"


def test_the_report_holds_every_method_and_figure(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    models = []
    for kernel, name in ((3, "first"), (5, "second"), (3, "natural")):
        models.append(tmp_path / f"{name}.safetensors")
        mean = Network((Conv("mean", IMAGE_WIRE, 1, kernel, padding=kernel // 2, bias=False),))  # takes noise off, untrained
        save_model(models[-1], mean, {"mean.weight": torch.full((1, 1, kernel, kernel), kernel**-2.0)}, bound=2.0)
    log = tmp_path / "run" / "log.jsonl"
    log.parent.mkdir()
    lines = [{"event": "step", "cpu_seconds": 30.0}, {"event": "validation", "psnr_out_db": 30.0}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines * 2))
    output = tmp_path / "report"
    natural = models.pop()
    arguments = ["--images", images, "--models", *models, "--slices", 2, "--without", "BM3D", "bilateral", "--log", log]
    arguments += ["--natural", natural, "--shares", 0]
    monkeypatch.setattr(sys, "argv", ["quality", *map(str, arguments), "--output", str(output)])
    monkeypatch.setattr(command, "available_peers", lambda: {"BM3D": _copy, "bilateral": _copy, "median 3x3": _copy})

    assert command.main() == 0
    torch.set_num_threads(threads)

    text = capsys.readouterr().out
    assert text.strip() == (output / "report.md").read_text().strip()
    for part in (
        "| first |",
        "| second |",
        "| median 3x3 |",
        "first against second",
        "| keyed |",
        "| blind |",
        "edge slope kept",
        "3 subjects: 1 to learn from (train/",
        "1 to judge by (validation/discs)",
        "70/15/15 of so few is 33/33/33",
        "No network was trained under this split",
        "## Blind beside keyed, the network in floating point in both",
        "## Photographs",
        "| natural |",
        "| train/two, slice 2 | first |",
    ):
        assert part in text
    assert "bilateral" not in text
    assert "first against median 3x3, worst case" in text  # the only peer
    worst_cases = ("worst-first", "worst-second", "worst-natural")
    for name in ("crops", "real-noise", "wires", "regression", "errors", "input-output", "training", *worst_cases):
        assert (output / f"{name}.png").stat().st_size > 500
        assert f"({name}.png)" in text
    measured = json.loads((output / "measurements.json").read_text())
    trials = measured["trials"]
    assert {one["method"] for one in measured["photographs"]} == {NOISY, "natural", "median 3x3"}
    assert len(measured["photographs"]) == 4 * 2 * 3  # two of twenty are held back
    assert len(measured["real_noise"]) == 3 * 3 * 3  # series without the photographs, slices, methods
    assert len(trials) == 4 * 2 * 4  # levels, slices, methods with the noisy input
    copies = [one["merit"] for one in trials if one["method"] == "median 3x3"]
    assert copies == [one["merit"] for one in trials if one["method"] == NOISY]  # all met the same images


def _copy(noisy: np.ndarray, sigma: float) -> np.ndarray:
    return noisy.copy()


def test_missing_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["quality", "--images", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")])
    threads = torch.get_num_threads()
    assert command.main() == 3
    torch.set_num_threads(threads)
    assert "pass the image folder with --images" in capsys.readouterr().err


def test_blind_gives_away_what_keyed_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: keyed packing that adds nothing shows a thief the image, and that it is then taken for packed spoils the result."""
    rows, columns = np.mgrid[:64, :64]
    truth = (0.3 + 0.2 * np.sin(rows / 9) * np.cos(columns / 7)).astype(np.float32)
    noisy = truth + np.float32(15 / 255) * np.random.default_rng(0).standard_normal(truth.shape, dtype=np.float32)
    subject = Subject("waves", 0, 15.0, truth, noisy)
    told = []

    def perfect(image: np.ndarray, sigma: float) -> np.ndarray:
        told.append(255 * sigma)
        near = np.abs(image - truth).mean() < 0.1
        return truth + np.float32(0.001) if near else image  # nothing to be made of what is no image

    keyed, blind = both_modes(subject, perfect)
    assert told == pytest.approx([15.0, 55.0, np.hypot(15, 25)])  # blind: the packing noise is still in
    assert keyed.psnr_db == pytest.approx(60.0, abs=0.01)
    assert keyed.leaked_bits == 0
    assert blind.leaked_bits > 0.1
    assert blind.leaked_mean_bits > blind.leaked_bits
    assert blind.leaked_bits == pytest.approx(
        0.5 * np.log2(1 + noisy.astype(float).var() / (25 / 255) ** 2), rel=1e-5
    )  # as stored
    assert keyed.stolen_psnr_db < 20 < blind.stolen_psnr_db

    real = packing_modes.pack
    monkeypatch.setattr(
        packing_modes, "pack", lambda words, keys, mode, *more: words if mode.value == "keyed" else real(words, keys, mode, *more)
    )
    broken, _ = both_modes(subject, perfect)
    assert broken.stolen_psnr_db > 50
    assert broken.psnr_db < 10


def trial(method: str, number: int, psnr: float) -> Trial:
    return Trial(method, "series", number, 25.0, Merit(psnr, 0.9, 2.0, 10.0, 5.0, 3.0), 0.1)


def test_means_and_the_worst_case() -> None:
    trials = [trial("ours", 0, 30.0), trial("peer", 0, 29.0), trial("ours", 1, 32.0), trial("peer", 1, 32.5)]
    assert means(trials)["ours"][25.0].psnr_db == 31.0
    found = worst(trials, "ours", "peer")
    assert found is not None
    assert (found[0].number, found[1]) == (1, -0.5)
    assert "worst case: -0.50 dB (series, slice 1, sigma 25, 32.00 dB)" in page.worst_sentence("ours", "peer", found)
    assert page.gains(means(trials), "ours", "peer") == "ours against peer: +0.25 dB at 25."
    assert worst(trials, "ours", "nobody") is None


def test_the_goals_on_real_noise_are_counted_where_there_is_noise() -> None:
    rows = [
        ("head, slice 0", "ours", RealNoise(4.0, 3.0, 1.5, 0.96)),
        ("head, slice 1", "ours", RealNoise(4.0, 3.0, 1.4, 0.94)),
        ("head, slice 2", "ours", RealNoise(4.0, 3.0, 1.8, 1.0)),
        ("air, slice 0", "ours", RealNoise(0.5, 0.4, 0.1, 1.0)),
        ("head, slice 0", "peer", RealNoise(4.0, 3.0, 0.3, 0.99)),
    ]
    ours, peer = page.real_summary(rows).splitlines()[2:]
    assert ours == "| ours | 4 | 45% | 60% | 97.5% | 94.0% | 1 of 3 |"
    assert peer.endswith("| 1 of 1 |")


def test_a_network_that_was_not_timed_says_so() -> None:
    network = gated_network(GatedShape(channels=4, blocks=1))
    judged = Judged(Model("tiny", network, initial_weights(network, 0), 2.0), network_cost(network))
    assert "| tiny |" in page.cost_table([judged], {})
    assert "not measured" in page.cost_table([judged], {})
