"""Where training computes: the CPU, or an accelerator where there is one.

A run's settings and checkpoints do not know of it: what is begun on one device goes on on another, with that one's rounding.
"""

from enum import StrEnum
from typing import Final, TypeVar

import torch
from torch import Tensor

from protocols.errors import ConfigurationError

CPU: Final = torch.device("cpu")

Tree = TypeVar("Tree")


class Device(StrEnum):
    """What --device takes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def choose_device(wanted: Device) -> torch.device:
    """The device for what was asked. Raises ConfigurationError: cuda was asked for, and torch finds none."""
    found = torch.cuda.is_available()
    if wanted is Device.CUDA and not found:
        raise ConfigurationError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device; take --device auto, or a build of torch with CUDA"
        )
    return torch.device("cuda") if found and wanted is not Device.CPU else CPU


def on_device(tree: Tree, device: torch.device) -> Tree:
    """Dictionaries and lists with every tensor in them on the device; a tensor that is there already is not copied."""
    moved: object = tree
    match tree:
        case Tensor():
            moved = tree.to(device)
        case dict():
            moved = {key: on_device(value, device) for key, value in tree.items()}
        case list():
            moved = [on_device(value, device) for value in tree]
    return moved  # type: ignore[return-value]
