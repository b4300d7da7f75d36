"""Six products of rows in place of nine give the same words, at the ring's extremes too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import ring, three_rows
from protocols.three_rows import FEWEST_CHANNELS, ThreeRows, worth_it

FEWEST = FEWEST_CHANNELS
EXTREMES = [-(1 << 63), (1 << 63) - 1, -1, 0, 1, 1 << 62]


def words(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(-(1 << 63), (1 << 63) - 1, shape, generator=generator)
    extreme = torch.tensor(EXTREMES)[torch.randint(0, len(EXTREMES), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.3, extreme, drawn)


def plain(x, weight, padding):
    """By definition: nine products, one after the other."""
    padded = torch.nn.functional.pad(x, [padding] * 4)
    kh, kw = weight.shape[2:]
    height, width = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
    out = torch.zeros(weight.shape[0], height, width, dtype=torch.int64)
    for row in range(kh):
        for column in range(kw):
            window = padded[:, row : row + height, column : column + width].reshape(x.shape[0], -1)
            out += (weight[:, :, row, column] @ window).view_as(out)
    return out


@given(
    channels=st.tuples(st.integers(FEWEST, FEWEST + 3), st.integers(FEWEST, FEWEST + 3)),
    size=st.tuples(st.integers(3, 14), st.integers(3, 9)),
    columns=st.integers(1, 3),
    padding=st.integers(0, 3),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=60, deadline=None, database=None)
def test_a_convolution_is_what_the_definition_gives(channels, size, columns, padding, seed):
    c_in, c_out = channels
    x, weight = words((c_in, *size), seed), words((c_out, c_in, 3, columns), seed + 1)
    assert worth_it(weight)
    assert torch.equal(ring.conv2d(x, weight, ring.ConvGeometry(padding=padding)), plain(x, weight, padding))


def test_any_rows_can_be_asked_for():
    x, weight = words((FEWEST, 12, 7), 1), words((FEWEST, FEWEST, 3, 3), 2)
    whole = plain(x, weight, 1)
    convolution = ring.Convolution(x, weight, ring.ConvGeometry(padding=1))
    for top in range(12):
        for bottom in range(top + 1, 13):
            assert torch.equal(convolution.rows(top, bottom), whole[:, top:bottom])


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((FEWEST - 1, FEWEST, 3, 3), ring.ConvGeometry()),
        ((FEWEST, FEWEST - 1, 3, 3), ring.ConvGeometry()),
        ((FEWEST, FEWEST, 5, 3), ring.ConvGeometry()),
        ((FEWEST, FEWEST, 3, 3), ring.ConvGeometry(stride=2)),
        ((FEWEST, FEWEST, 3, 3), ring.ConvGeometry(dilation=2)),
        ((FEWEST * 2, FEWEST, 3, 3), ring.ConvGeometry(groups=2)),
    ],
)
def test_other_convolutions_are_left_alone(monkeypatch, shape, geometry):
    def refused(*_):
        raise AssertionError("not for this one")

    monkeypatch.setattr(ThreeRows, "convolve", refused)
    x = words((shape[1] * geometry.groups, 9, 8), 3)
    ring.conv2d(x, words(shape, 4), geometry)


@pytest.mark.parametrize(
    ("words_of_block", "row", "rows"), [(100, 200, 1), (100, 50, 2), (100, 30, 3), (100, 12, 6), (100, 11, 9)]
)
def test_blocks_have_rows_by_threes_where_they_can(words_of_block, row, rows):
    assert ring.block_rows(words_of_block, row) == rows
    assert three_rows.KERNEL_ROWS == 3
