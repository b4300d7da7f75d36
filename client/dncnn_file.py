"""A trained DnCNN, from a `.pth` state dict to a network description with weights. Run by the model owner.

DnCNN (Zhang, Zuo, Chen, Meng, Zhang: Beyond a Gaussian Denoiser, IEEE TIP 2017): 3x3 convolutions with ReLU between them, all but
the first and last followed by batch normalisation. It predicts the noise, so the result is image - network(image): here the last
convolution's sign is turned and the image added. It is not told the noise level.

Two layouts are known, both an `nn.Sequential`, counted by its places: `dncnn.N.*` (SaoYan/DnCNN-PyTorch: no biases, batch
normalisation with eps 1e-5) and `model.N.*` (cszn/KAIR: biases, batch normalisation with eps 1e-4, or merged already). A module
without parameters leaves no trace in a state dict: what stands where a ReLU does is taken for one.

The file is hostile until checked: it is read with `weights_only`, which runs no code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - the error alone
from typing import Final

import torch
from numpy.random import Generator  # noqa: TID251 - an argument
from torch import Tensor

from protocols.errors import BadInputError
from protocols.layers import Add, Conv, Layer, Relu
from protocols.network import IMAGE_WIRE, Network
from protocols.unpicklable import Unpicklable
from protocols.wire_ranges import RangedNetwork, measured_ranges, weight_grid

TOLERANCE: Final = 1 / 1023  # of the range: what is computed on shares, from the float network with the same weights
# Of the weights' grid. A tenth of it is usual, far below the noise that is left; each bit finer doubles the flags.
WEIGHT_TOLERANCE: Final = 1 / 255
KERNEL: Final = 3
MIN_DEPTH: Final = 3
EPSILON: Final[Mapping[str, float]] = {"dncnn": 1e-5, "model": 1e-4}  # of batch normalisation, as each project's code has it
WRAPPINGS: Final = ("state_dict", "params")  # keys under which a training framework puts the state dict
KEY: Final = re.compile(r"(?:module\.)?(dncnn|model)\.(\d{1,4})\.(weight|bias|running_mean|running_var|num_batches_tracked)")
_EXPECTED: Final = (
    "expected a DnCNN as dncnn.0.weight, dncnn.2.weight, dncnn.3.running_mean ... (SaoYan/DnCNN-PyTorch)"
    " or model.0.weight, model.0.bias, model.2.weight ... (cszn/KAIR)"
)


@dataclass(frozen=True, eq=False)
class ImportedDncnn(Unpicklable):
    """A DnCNN with ranges. weight_error: largest change of a noisy phantom by rounding the weights to the network's grid."""

    ranged: RangedNetwork
    weights: dict[str, Tensor] = field(repr=False)
    weight_error: float

    @property
    def network(self) -> Network:
        return self.ranged.network

    @property
    def depth(self) -> int:
        """Convolutions."""
        return sum(isinstance(layer, Conv) for layer in self.network.layers)

    @property
    def bound(self) -> float:
        """The largest value found on any wire, for the model file."""
        return max(self.ranged.largest.values())


def import_dncnn(path: Path, rng: Generator) -> ImportedDncnn:
    """Read a state dict, fold it, choose the weights' grid and the wires' ranges. rng: draws the images to measure on.

    Raises BadInputError: not a file that torch reads without running code, or not a DnCNN. NetworkDescriptionError: too large, or
    its wires grow without limit on hostile images.
    """
    network, weights = folded(_state_dict(path), str(path))
    frac_bits, weight_error = weight_grid(network, weights, rng, tolerance=WEIGHT_TOLERANCE)
    network = replace(network, weight_frac_bits=frac_bits)
    return ImportedDncnn(measured_ranges(network, weights, rng, tolerance=TOLERANCE), weights, weight_error)


def folded(state: Mapping[str, Tensor], place: str) -> tuple[Network, dict[str, Tensor]]:
    """The description, without ranges, and weights in float32, batch normalisation folded in. Raises BadInputError."""
    layout, modules = _modules(state, place)
    convolutions = _convolutions(modules, place)
    layers: list[Layer] = []
    weights: dict[str, Tensor] = {}
    source = IMAGE_WIRE
    for number, (conv, norm) in enumerate(convolutions, start=1):
        name, last = (f"conv{number}", False) if number < len(convolutions) else ("exit", True)
        weight, bias = _fold(modules[conv], modules.get(norm) if norm else None, EPSILON[layout])
        sign = -1.0 if last else 1.0
        layers.append(Conv(name, source, weight.shape[0], kernel=KERNEL, padding=KERNEL // 2, bias=bias is not None))
        weights[f"{name}.weight"] = (sign * weight).float()
        if bias is not None:
            weights[f"{name}.bias"] = (sign * bias).float()
        if not last:
            source = f"relu{number}"
            layers.append(Relu(source, name))
    layers.append(Add("output", IMAGE_WIRE, "exit"))
    if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
        raise BadInputError(f"{place}: batch normalisation gives infinite weights: are all variances positive?")
    return Network(tuple(layers)), weights


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    """Names and tensors, nothing else. Raises BadInputError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        # Not torch's own words: they advise reading it in the way that does run code.
        reason = (
            (error.strerror or str(error)) if isinstance(error, OSError) else "it is no checkpoint of torch, or holds objects"
        )
        raise BadInputError(
            f"{path} is not a state dict that can be read without running code ({reason}): save the network's state_dict(), names"
            " and tensors alone, with torch.save"
        ) from error
    for wrapping in WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping) or not content:
        raise BadInputError(f"{path}: {_EXPECTED}; found {type(content).__name__} instead of names and tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise BadInputError(f"{path}: {_EXPECTED}; {str(name)[:80]!r} is {type(tensor).__name__}, not a tensor")
    return content


def _modules(state: Mapping[str, Tensor], place: str) -> tuple[str, dict[int, dict[str, Tensor]]]:
    """The layout, and the tensors of each place that has any, in order, as doubles."""
    found: dict[int, dict[str, Tensor]] = {}
    layouts: set[str] = set()
    for name, tensor in state.items():
        key = KEY.fullmatch(name)
        if key is None:
            raise BadInputError(f"{place}: {_EXPECTED}; found {name[:80]!r}")
        layouts.add(key[1])
        if key[3] == "num_batches_tracked":
            continue
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise BadInputError(f"{place}: {name} must hold finite real numbers, and does not ({tensor.dtype})")
        found.setdefault(int(key[2]), {})[key[3]] = tensor.double()
    if len(layouts) != 1:
        raise BadInputError(f"{place}: {_EXPECTED}; found names of both")
    return layouts.pop(), dict(sorted(found.items()))


def _convolutions(modules: Mapping[int, Mapping[str, Tensor]], place: str) -> list[tuple[int, int]]:
    """The places of each convolution and of the batch normalisation after it (0: none), checked. Raises BadInputError."""
    out: list[tuple[int, int]] = []
    due, channels = 0, 1
    for position, tensors in modules.items():
        if "running_mean" in tensors or "running_var" in tensors:
            if not out or position != out[-1][0] + 1 or out[-1][1]:
                raise BadInputError(f"{place}: batch normalisation at place {position} follows no convolution")
            names = {"weight", "bias", "running_mean", "running_var"}
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            if shapes != dict.fromkeys(names, (channels,)):
                raise BadInputError(f"{place}: expected {sorted(names)} of {channels} values at place {position}, found {shapes}")
            out[-1], due = (out[-1][0], position), position + 2
            continue
        if position != due:
            raise BadInputError(f"{place}: expected the next convolution at place {due}, after a ReLU; found one at {position}")
        channels = _checked(tensors, position, channels, first=not out, place=place)
        out.append((position, 0))
        due = position + 2
    if len(out) < MIN_DEPTH or channels != 1 or out[-1][1]:
        raise BadInputError(
            f"{place}: expected at least {MIN_DEPTH} convolutions, the last one to 1 channel and without batch normalisation; "
            f"found {len(out)}, the last one to {channels} channels"
        )
    return out


def _checked(tensors: Mapping[str, Tensor], position: int, channels: int, *, first: bool, place: str) -> int:
    """The channels that a convolution writes. Raises BadInputError."""
    shape = tuple(tensors["weight"].shape) if "weight" in tensors else ()
    if len(shape) != 4 or shape[1:] != (channels, KERNEL, KERNEL):
        what = "of one grey channel" if first else f"of {channels} channels"
        raise BadInputError(
            f"{place}: expected a {KERNEL}x{KERNEL} convolution {what} at place {position}, found weights of shape {shape}"
        )
    if "bias" in tensors and tuple(tensors["bias"].shape) != shape[:1]:
        raise BadInputError(f"{place}: place {position} has a bias of shape {tuple(tensors['bias'].shape)}, not {shape[:1]}")
    return shape[0]


def _fold(conv: Mapping[str, Tensor], norm: Mapping[str, Tensor] | None, epsilon: float) -> tuple[Tensor, Tensor | None]:
    """The convolution's weight and bias, with a batch normalisation in evaluation mode multiplied in."""
    weight, bias = conv["weight"], conv.get("bias")
    if norm is None:
        return weight, bias
    scale = norm["weight"] * torch.rsqrt(norm["running_var"] + epsilon)
    before = norm["running_mean"] if bias is None else norm["running_mean"] - bias
    return weight * scale.view(-1, 1, 1, 1), norm["bias"] - before * scale
