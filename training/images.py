"""Series of medical images: reading, normalising, and drawing noisy training patches.

A folder holds `index.json` (shape, modality, source and licence of each series) and `<series>.npz` with the key `images`,
int16 [slice, row, column]. Series names start with their split, `train/` or `validation/`: different subjects.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from protocols.errors import BadInputError
from protocols.fixed_point import IMAGE_HIGH, IMAGE_LOW
from protocols.hostile_images import phantom_plane
from training.noise import NoiseSettings, add_noise

EMPTY_SPREAD: Final = 0.01  # a patch with a smaller standard deviation shows air
PHANTOM_ZOOM: Final = 3  # a patch then shows a ninth of a phantom at least
DRAWS: Final = 3  # attempts to find a patch that is not empty; air must still be seen sometimes


@dataclass(frozen=True)
class ImageSettings:
    """Which images are learned from, and which ones check it.

    exclude, only: names of train/* series, without the split. hold_back: every so many-th slice of the series is not learned
    from and is the validation instead of validation/*; 0 holds none back.
    """

    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    hold_back: int = 0


@dataclass(frozen=True, eq=False)
class Series:
    """One scan of one subject."""

    name: str
    modality: str
    images: NDArray[np.int16] = field(repr=False)  # [slice, row, column], stored values
    low: int
    high: int

    def normalised(self, window: NDArray[np.int16]) -> NDArray[np.float32]:
        """Map the full stored range of the series to [0, 1]."""
        return (window.astype(np.float32) - self.low) / np.float32(self.high - self.low)


def load_series(folder: Path, split: str, exclude: Collection[str] = ()) -> list[Series]:
    """All series of a split, without those whose name (after the slash) is excluded. Raises BadInputError."""
    index = load_index(folder)
    names = [name for name in sorted(index) if name.startswith(f"{split}/") and name.split("/", 1)[1] not in exclude]
    if not names:
        raise BadInputError(f"{folder}/index.json lists no series {split}/*; is this the image folder?")
    return [_load(folder, name, index[name]) for name in names]


def load_split(folder: Path, settings: ImageSettings) -> tuple[list[Series], list[Series]]:
    """Series to learn from, and those that check it: validation/*, or the slices held back. Raises BadInputError."""
    series = load_series(folder, "train", settings.exclude)
    if settings.only:
        missing = set(settings.only) - {one.name.split("/", 1)[1] for one in series}
        if missing:
            raise BadInputError(f"{folder}/index.json lists no series train/{', train/'.join(sorted(missing))}")
        series = [one for one in series if one.name.split("/", 1)[1] in settings.only]
    if not settings.hold_back:
        return series, load_series(folder, "validation")
    parts = [hold_back(one, settings.hold_back) for one in series]
    return [kept for kept, _ in parts], [held for _, held in parts]


def hold_back(series: Series, every: int) -> tuple[Series, Series]:
    """Split a series: every `every`-th slice, the last of each group, is in the second part alone."""
    held = np.arange(series.images.shape[0]) % every == every - 1
    if not held.any():
        raise BadInputError(f"{series.name} has {series.images.shape[0]} slices: too few to hold back every {every}th")
    return replace(series, images=series.images[~held]), replace(series, images=series.images[held])


def load_index(folder: Path) -> dict[str, dict[str, Any]]:
    """What index.json says of each series. Raises BadInputError."""
    try:
        index = json.loads((folder / "index.json").read_text())
    except (OSError, ValueError) as error:
        raise BadInputError(f"{folder} has no readable index.json: {error}; pass the image folder with --images") from error
    if not isinstance(index, dict):
        raise BadInputError(f"{folder}/index.json must map series names to their description, not be a {type(index).__name__}")
    return index


def _load(folder: Path, name: str, entry: dict[str, Any]) -> Series:
    path = folder / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            images = archive["images"]
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise BadInputError(f"{path} holds no array 'images': {error}") from error
    if images.dtype != np.int16 or images.ndim != 3:
        raise BadInputError(f"{path}: images must be int16 [slice, row, column], not {images.dtype} {images.shape}")
    low, high = int(images.min()), int(images.max())
    if low == high:
        raise BadInputError(f"{path}: every pixel is {low}; there is nothing to learn from")
    return Series(name, str(entry.get("modality", "unknown")), images, low, high)


@dataclass(frozen=True)
class PatchSettings:
    """How training patches are drawn."""

    batch: int = 8
    side: int = 64
    sigma_max: float = 55.0  # in 1/255 of the range; the level is uniform up to it
    gain_low: float = 0.4  # contrast of a patch is scaled by a factor in [gain_low, gain_high]: a series may use
    gain_high: float = 1.2  # a fraction of its range, when one bright pixel defines the rest
    halved_fraction: float = 0.25  # patches averaged 2x2: less noise in the truth
    phantom_fraction: float = 0.0  # patches of phantoms, whose edges are sharper than a scanner's: a client may send such


@dataclass(frozen=True, eq=False)
class Patches:
    """A batch: noisy input, truth, and the noise level that the network is told, in units of the range."""

    noisy: Float[Tensor, "n 1 h w"]
    clean: Float[Tensor, "n 1 h w"]
    sigma: Float[Tensor, " n"]

    def to(self, device: torch.device) -> "Patches":
        """The batch where it is learned from."""
        return Patches(self.noisy.to(device), self.clean.to(device), self.sigma.to(device))


def draw_patches(
    series: list[Series], settings: PatchSettings, noise: NoiseSettings | None = None, *, seed: int, step: int
) -> Patches:
    """The batch of one step, a function of (seed, step) alone: a resumed run sees what an uninterrupted one saw.

    Noise is cut off where a client refuses an image: photon noise of a dark patch has pixels at ten times the range.
    """
    rng = np.random.default_rng((seed, step))
    modalities = sorted({one.modality for one in series})
    planes = []
    for _ in range(settings.batch):
        if settings.phantom_fraction and rng.random() < settings.phantom_fraction:
            planes.append(_draw_phantom(settings, rng))
            continue
        modality = modalities[rng.integers(len(modalities))]  # modalities, not series or slices, are balanced
        planes.append(_draw([one for one in series if one.modality == modality], settings, rng))
    levels = rng.uniform(0.0, settings.sigma_max / 255.0, settings.batch)
    pairs = [add_noise(plane, level, noise or NoiseSettings(), rng) for plane, level in zip(planes, levels, strict=True)]
    return Patches(
        torch.from_numpy(np.stack([noisy for noisy, _ in pairs])[:, None]).clamp(IMAGE_LOW, IMAGE_HIGH),
        torch.from_numpy(np.stack(planes)[:, None]),
        torch.tensor([told for _, told in pairs], dtype=torch.float32),
    )


def _draw(series: list[Series], settings: PatchSettings, rng: np.random.Generator) -> NDArray[np.float32]:
    """One patch with random position, orientation, scale and contrast."""
    for _ in range(DRAWS):
        one = series[rng.integers(len(series))]
        plane = one.images[rng.integers(one.images.shape[0])]
        halved = rng.random() < settings.halved_fraction and min(plane.shape) >= 2 * settings.side
        side = settings.side * (2 if halved else 1)
        if min(plane.shape) < side:
            raise BadInputError(f"{one.name}: {plane.shape} slices are smaller than a patch of {side}; lower patches.side")
        row, column = (int(rng.integers(size - side + 1)) for size in plane.shape)
        patch = one.normalised(plane[row : row + side, column : column + side])
        if halved:
            patch = patch.reshape(settings.side, 2, settings.side, 2).mean(axis=(1, 3))
        if patch.std() >= EMPTY_SPREAD:
            break
    patch = np.rot90(patch, int(rng.integers(4)))
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    return np.ascontiguousarray(patch) * np.float32(rng.uniform(settings.gain_low, settings.gain_high))


def _draw_phantom(settings: PatchSettings, rng: np.random.Generator) -> NDArray[np.float32]:
    """A patch of a phantom that is up to PHANTOM_ZOOM times as wide, scaled in contrast as the others are."""
    side = int(rng.integers(settings.side, PHANTOM_ZOOM * settings.side + 1))
    row, column = (int(rng.integers(side - settings.side + 1)) for _ in range(2))
    patch = phantom_plane(side, rng)[row : row + settings.side, column : column + settings.side]
    return patch * np.float32(rng.uniform(settings.gain_low, settings.gain_high))


def spread_slices(series: Series, count: int) -> NDArray[np.int16]:
    """`count` slices, evenly spread over the series without its ends, which show mostly air; all where there are no more."""
    depth = series.images.shape[0]
    if count >= depth:
        return series.images
    chosen = np.linspace(0.1 * (depth - 1), 0.9 * (depth - 1), count).round().astype(int)
    picked: NDArray[np.int16] = series.images[chosen]
    return picked
