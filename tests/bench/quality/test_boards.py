"""The worst case of a board: against whom, on which slice, and cropped to where it is lost."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.quality.boards import Board, judge
from bench.quality.networks import Judged
from bench.quality.peers import BM3D, Denoise, Plane
from bench.quality.trials import Subject
from client.model_file import Model
from darkroom.picture import LABEL_HEIGHT, MARGIN
from protocols.layers import Conv
from protocols.network import IMAGE_WIRE, Network
from training.cost import network_cost

SIDE = 256
CROP = 128 * 3  # pixels of the picture: crops are enlarged threefold, so that labels fit
TRUTH = np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
NETWORK = Network((Conv("same", IMAGE_WIRE, 1, 1, bias=False),))
OURS = Judged(Model("ours", NETWORK, {}, 2.0), network_cost(NETWORK))


def subject(number: int) -> Subject:
    noisy = TRUTH + np.float32(0.02) * np.random.default_rng(number).standard_normal(TRUTH.shape, dtype=np.float32)
    return Subject("ramp", number, 25.0, TRUTH, noisy)


def off_by(error: float, number: int | None = None) -> Denoise:
    """The truth, but in the lower right corner; with a number, for this slice alone."""

    def run(noisy: Plane, _: float) -> Plane:
        result = TRUTH.copy()
        if number is None or np.array_equal(noisy, subject(number).noisy):
            result[-64:, -64:] += np.float32(error)
        return result

    return run


def board(monkeypatch: pytest.MonkeyPatch, ours: Denoise, **peers: Denoise) -> Board:
    monkeypatch.setattr(Judged, "denoise", property(lambda _: ours))
    return judge([OURS], peers, [subject(0), subject(1), subject(2)], lambda _: None)


def test_the_rival_is_bm3d_or_else_the_best_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = {"bad": off_by(0.2), "good": off_by(0.1)}
    assert board(monkeypatch, off_by(0.01), **peers).rival == "good"
    assert board(monkeypatch, off_by(0.01), **peers, **{BM3D: off_by(0.3)}).rival == BM3D
    alone = board(monkeypatch, off_by(0.01))
    assert alone.rival is None


def test_no_peer_no_worst_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert board(monkeypatch, off_by(0.01)).worst_cases(tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_the_worst_slice_is_shown_where_it_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ours(noisy: Plane, sigma: float) -> Plane:
        return off_by(-0.05, number=1)(noisy, sigma) + np.float32(0.001)

    found = board(monkeypatch, ours, peer=lambda noisy, _: TRUTH + np.float32(0.001))
    _, sentence, image = found.worst_cases(tmp_path)
    assert "ours against peer, worst case: -" in sentence
    assert "(ramp, slice 1, sigma 25, " in sentence
    assert image == "![ours at its worst](worst-ours.png)"

    sheet = np.asarray(Image.open(tmp_path / "worst-ours.png"))
    step = CROP + MARGIN

    def panel(row: int, column: int) -> np.ndarray:
        top, left = MARGIN + row * (step + LABEL_HEIGHT) + LABEL_HEIGHT, MARGIN + column * step
        return sheet[top : top + CROP, left : left + CROP]

    ours_off, peer_off = panel(1, 1), panel(1, 2)
    assert int((ours_off == round(255 * (0.5 + 5 * -0.049))).sum()) == (64 * 3) ** 2  # the whole corner is in the crop
    assert ours_off[-1, -1] < 100 < ours_off[0, 0]
    assert set(np.unique(peer_off)) == {round(255 * 0.505)}
    assert panel(0, 0).mean() > 150  # the truth, at the bright end of the ramp
