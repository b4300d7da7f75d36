"""A folder of tiny synthetic series, in the layout that training reads."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

SIZES = {
    "train/ct_small": (3, 40, 33),
    "train/mr_small": (2, 36, 40),
    "train/licensed": (2, 16, 16),
    "validation/mr_other": (2, 21, 26),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums have one order, and tiny tensors are not slowed down by threads that wait for each other.

    The command line sets both of these for its process.
    """
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def images_folder(tmp_path: Path) -> Path:
    """Smooth waves, int16, a different range for each series."""
    folder = tmp_path / "images"
    rng = np.random.default_rng(5)
    for index, (name, shape) in enumerate(SIZES.items()):
        rows, columns = np.mgrid[: shape[1], : shape[2]]
        phases = rng.uniform(0, 6, (shape[0], 1, 1))
        images = 500 * (index + 1) * (np.sin(rows / 5 + phases) + np.cos(columns / 7 + phases))
        path = folder / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, images=images.astype(np.int16))
    index_text = {name: {"modality": name.split("/")[1][:2].upper(), "shape": shape} for name, shape in SIZES.items()}
    (folder / "index.json").write_text(json.dumps(index_text))
    return folder
