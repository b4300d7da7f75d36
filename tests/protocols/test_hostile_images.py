"""Hostile images fill the range that a client accepts and never leave it; the same generator gives the same images."""

import numpy as np
import pytest
import torch

from protocols.hostile_images import LEVELS, PATTERNS, PHANTOM, hostile_batches, pattern_plane, phantom_batches, phantom_plane

SIDE = 24


def test_hostile_batches_reach_both_ends_of_the_range_and_stay_within() -> None:
    batches = list(hostile_batches(SIDE, np.random.default_rng(0)))
    images = torch.cat([images for images, _ in batches])
    assert images.shape[1:] == (1, SIDE, SIDE)
    assert (float(images.min()), float(images.max())) == (-1.0, 2.0)
    assert {sigma for _, sigma in batches} == {0.0, 25.0, 55.0}


@pytest.mark.parametrize("pattern", [*PATTERNS, PHANTOM])
@pytest.mark.parametrize("levels", LEVELS)
def test_a_pattern_stays_between_its_levels(pattern: str, levels: tuple[float, float]) -> None:
    plane = pattern_plane(pattern, SIDE, *levels, np.random.default_rng(1))
    assert plane.shape == (SIDE, SIDE)
    assert min(levels) <= plane.min()
    assert plane.max() <= max(levels)


def test_phantoms_have_several_grey_levels_and_noise_of_each_strength() -> None:
    assert len(np.unique(phantom_plane(64, np.random.default_rng(2)))) > 4
    first, second = (list(phantom_batches(64, 2, np.random.default_rng(3))) for _ in range(2))
    assert [sigma for _, sigma in first] == [0.0, 25.0, 55.0]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    rough = [float((images[..., 1:] - images[..., :-1]).abs().median()) for images, _ in first]
    assert rough == sorted(rough)
