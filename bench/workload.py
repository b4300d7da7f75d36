"""What is timed: images and networks, the same for every engine. Seeded, so runs compare."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.data import shepp_logan_phantom
from skimage.transform import resize
from torch import Tensor

from client.model_file import Model, load_model, save_model
from client.report import float_estimate
from protocols.layers import TRUNCATED
from protocols.network import Network, WireRange
from training.dncnn import DncnnShape

BASE: Final = "base"
DNCNN: Final = "dncnn"
NETWORKS: Final[Mapping[str, str]] = {BASE: "`base` (shipped)", DNCNN: "DnCNN-17-64"}
BASE_FILE: Final = Path("darkroom/models/base.safetensors")
NOISE: Final = 25.0  # in 1/255
SIGMA: Final = NOISE / 255
DNCNN_SEED: Final = 17
# The seeded weights reach 2.8 on phantoms and 6.5 on hostile inputs; 0.04 flags are expected in a 512x512 image.
DNCNN_RANGE: Final = WireRange(frac_bits=14, magnitude_bits=4)
DNCNN_GAIN: Final = 1.3  # of a layer's weights, over the fan-in's root: a little under He's 1.41, so that wires do not grow


def phantom(side: int, sigma: float) -> NDArray[np.float32]:
    """Shepp and Logan's head phantom with Gaussian noise of `sigma` / 255."""
    clean = resize(shepp_logan_phantom(), (side, side), anti_aliasing=True)
    noise = np.random.default_rng(side).normal(0.0, sigma / 255, clean.shape)
    return np.asarray(clean + noise, dtype=np.float32)


def seeded_dncnn() -> tuple[Network, dict[str, Tensor]]:
    """DnCNN-17-64 with random weights of bounded wires: it costs what a trained one costs, and denoises nothing."""
    plain = DncnnShape().network()
    truncated = sorted(layer.out for layer in plain.layers if isinstance(layer, TRUNCATED))
    network = Network(plain.layers, weight_frac_bits=plain.weight_frac_bits, ranges=tuple((w, DNCNN_RANGE) for w in truncated))
    generator = torch.Generator().manual_seed(DNCNN_SEED)
    weights = {}
    for name, shape in network.parameter_shapes().items():
        drawn = torch.randn(shape, generator=generator)
        weights[name] = drawn * (DNCNN_GAIN / drawn[0].numel() ** 0.5 if name.endswith(".weight") else 0.01)
    return network, weights


def network_file(name: str, given: Mapping[str, Path], folder: Path) -> Path:
    """The model file of a network of NETWORKS: the one that is given, or the shipped or seeded one."""
    if name in given:
        return given[name]
    if name == BASE:
        return BASE_FILE
    path = folder / f"{name}.safetensors"
    save_model(path, *seeded_dncnn(), bound=float(1 << DNCNN_RANGE.magnitude_bits))
    return path


def identity(model: Model) -> dict[str, Any]:
    """What a network is, for the results: those of another one are not continued."""
    weights = hashlib.sha256()
    for name in sorted(model.weights):
        weights.update(name.encode() + model.weights[name].numpy().tobytes())
    return {
        "layers": len(model.network.layers),
        "parameters": sum(tensor.numel() for tensor in model.weights.values()),
        "network": model.network.digest.hex(),
        "weights": weights.hexdigest(),
    }


@dataclass(frozen=True, eq=False)
class Work:
    """One network on one image, as files for the processes of the engines. expected: the network in float64."""

    model_file: Path
    model: Model = field(repr=False)
    side: int
    image_file: Path
    expected_file: Path
    expected: Tensor = field(repr=False)
    folder: Path


def prepare(model_file: Path, side: int, folder: Path) -> Work:
    """Write image and expected result into a folder of their own. Raises DarkroomError."""
    model = load_model(model_file)
    image = phantom(side, NOISE)
    expected = float_estimate(model, torch.from_numpy(image).double(), SIGMA)
    folder.mkdir()
    paths = folder / "image.npy", folder / "expected.npy"
    for path, array in zip(paths, (image, expected.numpy()), strict=True):
        np.save(path, array)
    return Work(model_file, model, side, *paths, expected, folder)
