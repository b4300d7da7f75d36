"""Model files: safetensors whose metadata holds the network description. No pickle, no code.

Read by the model owner, and by whoever compares with plaintext.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from protocols.errors import BadInputError, NetworkDescriptionError
from protocols.network import Network
from protocols.unpicklable import Unpicklable

FORMAT: Final = "darkroom-model-1"
MODEL_SUFFIX: Final = ".safetensors"


@dataclass(frozen=True, eq=False)
class Model(Unpicklable):
    """A network with its weights, as the model owner holds it."""

    name: str
    network: Network
    weights: dict[str, Tensor] = field(repr=False)
    bound: float  # largest magnitude that any wire reached over hostile inputs in [-1, 2], as measured in training


def load_model(path: Path) -> Model:
    """Read and check a model file. Raises BadInputError, NetworkDescriptionError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path} is not a readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise BadInputError(f"{path} is no Darkroom model: its metadata lacks format={FORMAT}")
    network = Network.from_json(metadata["network"])
    if metadata.get("conditioning") != ("sigma_map" if network.conditioned else "none"):
        raise NetworkDescriptionError(f"{path}: conditioning {metadata.get('conditioning')!r} contradicts the network")
    expected = network.parameter_shapes()
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise NetworkDescriptionError(f"{path}: weights do not fit the network description: {', '.join(wrong[:5])}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise BadInputError(f"{path} holds NaN or infinite weights")
    return Model(path.stem, network, weights, float(metadata.get("bound", "nan")))


def save_model(path: Path, network: Network, weights: dict[str, Tensor], *, bound: float, **notes: str) -> None:
    """Write a model file; convolution weights are rounded to the network's grid, so that float and fixed point agree."""
    path.write_bytes(model_bytes(network, weights, bound=bound, **notes))


def model_bytes(network: Network, weights: dict[str, Tensor], *, bound: float, **notes: str) -> bytes:
    """The content of a model file. notes: further metadata."""
    scale = float(1 << network.weight_frac_bits)
    rounded = {
        name: (torch.round(tensor * scale) / scale if name.endswith(".weight") else tensor).float().contiguous()
        for name, tensor in weights.items()
    }
    conditioning = "sigma_map" if network.conditioned else "none"
    metadata = {"format": FORMAT, "network": network.to_json(), "conditioning": conditioning, "bound": repr(bound), **notes}
    return save(rounded, metadata=metadata)
