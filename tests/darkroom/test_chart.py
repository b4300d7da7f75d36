"""Charts: drawn where the numbers say."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.chart import BOTTOM, LEFT, RIGHT, SIZE, TOP, Line, write_chart


def _blue(path: Path) -> np.ndarray:
    """Where the first line's colour is, within the frame."""
    pixels = np.asarray(Image.open(path)).astype(int)
    found = np.argwhere(np.abs(pixels - np.array([0x1F, 0x5F, 0xBF])).sum(axis=2) < 10)
    return found[found[:, 1] < SIZE[0] - RIGHT]


@pytest.mark.parametrize(("logarithmic", "middle"), [(True, 10.0), (False, 50.5)])
def test_a_mark_in_the_middle_of_the_axes_is_in_the_middle_of_the_frame(tmp_path: Path, logarithmic: bool, middle: float) -> None:
    frame = Line("ends", [(middle, 15.0)], marks=True)
    ends = Line("corners", [(1.0, 10.0), (100.0, 20.0)], marks=True)
    path = write_chart(tmp_path / "chart.png", "title", "x", "y", [frame, ends], logarithmic=logarithmic)
    row, column = _blue(path).mean(axis=0)
    assert column == pytest.approx((LEFT + SIZE[0] - RIGHT) / 2, abs=2)
    assert row == pytest.approx((TOP + SIZE[1] - BOTTOM) / 2, abs=2)


@pytest.mark.parametrize("span", [1e-3, 0.7, 30.0, 5e4])
def test_any_span_can_be_drawn(tmp_path: Path, span: float) -> None:
    points = [(0.0, 1.0), (span, 1.0 + span)]
    path = write_chart(tmp_path / "chart.png", "title", "x", "y", [Line("line", points)], logarithmic=False)
    assert len(_blue(path)) > 300
