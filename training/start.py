"""The weights that a run begins with, taken from another run of the same network."""

from pathlib import Path

from torch import Tensor
from torch.nn import functional

from protocols.errors import BadInputError, ConfigurationError
from protocols.network import Network
from training.checkpoint import load_checkpoint


def start_weights(folder: Path, network: Network) -> dict[str, Tensor]:
    """The best weights so far of the run in `folder`, by name; kernels smaller than the network's get zeros around them.

    That is the same function, where padding is half a kernel as in our families.
    Raises BadInputError: there is no run, its checkpoint is damaged, or it was not validated yet; ConfigurationError: its network
    has other weights than `network`.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        raise BadInputError(f"{path} is missing; --start takes the folder of a run, {folder.parent}/base for instance")
    best = load_checkpoint(path).best
    if not best:
        raise BadInputError(f"{path} has no best weights before the first validation of its run; go on with that run first")
    wanted = network.parameter_shapes()
    best = {name: _widened(weight, wanted.get(name, tuple(weight.shape))) for name, weight in best.items()}
    for name in sorted(wanted.keys() | best.keys()):
        ours, theirs = wanted.get(name), tuple(best[name].shape) if name in best else None
        if ours != theirs:
            raise ConfigurationError(
                f"{path} is of another network: {name} is {theirs or 'missing'} there and {ours or 'missing'} here; "
                "give --start a run of the same [network]"
            )
    return best


def _widened(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weight with zeros around its kernel, if that gives the shape, and kernels stay centred; else as it is."""
    if weight.ndim != 4 or weight.shape[:2] != shape[:2]:
        return weight
    missing = [want - have for want, have in zip(shape[2:], weight.shape[2:], strict=True)]
    if any(each < 0 or each % 2 for each in missing):
        return weight
    down, right = (each // 2 for each in missing)
    return functional.pad(weight, [right, right, down, down])
