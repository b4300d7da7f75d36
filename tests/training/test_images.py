"""Reading series and drawing patches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from protocols.errors import BadInputError
from protocols.hostile_images import ELLIPSES
from training.images import ImageSettings, PatchSettings, draw_patches, load_series, load_split, spread_slices


def test_splits_are_kept_apart_and_exclusions_left_out(images_folder: Path) -> None:
    assert [one.name for one in load_series(images_folder, "train", ["licensed"])] == ["train/ct_small", "train/mr_small"]
    assert [one.name for one in load_series(images_folder, "validation")] == ["validation/mr_other"]


def test_the_full_stored_range_becomes_the_unit_interval(images_folder: Path) -> None:
    for one in load_series(images_folder, "train"):
        values = one.normalised(one.images)
        assert values.dtype == np.float32
        assert (values.min(), values.max()) == (0, 1)


def test_patches_are_a_function_of_seed_and_step(images_folder: Path) -> None:
    series, settings = load_series(images_folder, "train"), PatchSettings(batch=6, side=12)
    first, same, later = (draw_patches(series, settings, seed=1, step=step) for step in (3, 3, 4))
    assert torch.equal(first.noisy, same.noisy)
    assert not torch.equal(first.noisy, later.noisy)
    assert first.clean.shape == (6, 1, 12, 12)


def test_noise_has_the_level_that_is_stated(images_folder: Path) -> None:
    patches = draw_patches(load_series(images_folder, "train"), PatchSettings(batch=64, side=16), seed=1, step=0)
    scaled = (patches.noisy - patches.clean) / patches.sigma[:, None, None, None]
    assert float(scaled.std()) == pytest.approx(1, abs=0.02)  # 16,384 values: the standard error is 0.006
    assert 0 <= float(patches.sigma.min()) <= float(patches.sigma.max()) <= 55 / 255


def test_a_part_of_the_patches_shows_phantoms(images_folder: Path) -> None:
    """Few levels and no texture, in another contrast each time; with none asked for, patches are what they always were."""
    series = load_series(images_folder, "train")
    drawn = draw_patches(series, PatchSettings(batch=40, side=16, phantom_fraction=1.0), seed=1, step=0)
    assert all(len(patch.unique()) <= ELLIPSES + 1 for patch in drawn.clean)
    assert 0 <= float(drawn.clean.min()) < 1 < float(drawn.clean.max()) <= 1.2
    mixed = draw_patches(series, PatchSettings(batch=40, side=16, phantom_fraction=0.25), seed=1, step=0)
    flat = sum(len(patch.unique()) <= ELLIPSES + 1 for patch in mixed.clean)
    assert 2 <= flat <= 20  # of a binomial of 40 and 1/4: outside for 1 seed of 1,000
    without = draw_patches(series, PatchSettings(batch=6, side=12, phantom_fraction=0.0), seed=1, step=3)
    assert torch.equal(without.noisy, draw_patches(series, PatchSettings(batch=6, side=12), seed=1, step=3).noisy)


def test_chosen_slices_are_spread(images_folder: Path) -> None:
    (one,) = load_series(images_folder, "validation")
    assert spread_slices(one, 10).shape == (2, 21, 26)
    assert spread_slices(one, 1).shape == (1, 21, 26)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no index", "no readable index"),
        ("no series", "lists no series train/"),
        ("wrong type", "must be int16"),
        ("flat", "every pixel is 3"),
        ("wrong key", "holds no array 'images'"),
    ],
)
def test_unusable_folders_are_named(images_folder: Path, damage: str, message: str) -> None:
    path = images_folder / "train" / "ct_small.npz"
    match damage:
        case "no index":
            (images_folder / "index.json").unlink()
        case "no series":
            (images_folder / "index.json").write_text(json.dumps({"validation/x": {}}))
        case "wrong type":
            np.savez(path, images=np.ones((2, 20, 20)))
        case "flat":
            np.savez(path, images=np.full((2, 20, 20), 3, np.int16))
        case "wrong key":
            np.savez(path, pictures=np.ones(3, np.int16))
    with pytest.raises(BadInputError, match=message):
        load_series(images_folder, "train")


def test_every_so_many_th_slice_is_held_back(images_folder: Path) -> None:
    learned, checked = load_split(images_folder, ImageSettings(only=("ct_small",), hold_back=3))
    (whole,) = load_series(images_folder, "train", ["mr_small", "licensed"])
    assert np.array_equal(learned[0].images, whole.images[:2])
    assert np.array_equal(checked[0].images, whole.images[2:])
    assert (checked[0].low, checked[0].high) == (whole.low, whole.high)

    with pytest.raises(BadInputError, match="too few to hold back"):
        load_split(images_folder, ImageSettings(hold_back=3))
    with pytest.raises(BadInputError, match="lists no series train/mr_large"):
        load_split(images_folder, ImageSettings(only=("mr_large",)))
    assert [one.name for one in load_split(images_folder, ImageSettings())[1]] == ["validation/mr_other"]


def test_a_patch_larger_than_the_slices_is_refused(images_folder: Path) -> None:
    with pytest.raises(BadInputError, match=r"lower patches\.side"):
        draw_patches(load_series(images_folder, "train"), PatchSettings(batch=1, side=64), seed=0, step=0)
