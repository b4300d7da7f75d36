"""The weights that a run begins with, taken from another run of the same network."""

from pathlib import Path

from torch import Tensor

from protocols.errors import BadInputError, ConfigurationError
from protocols.network import Network
from training.checkpoint import load_checkpoint


def start_weights(folder: Path, network: Network) -> dict[str, Tensor]:
    """The best weights so far of the run in `folder`, by name.

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
    for name in sorted(wanted.keys() | best.keys()):
        ours, theirs = wanted.get(name), tuple(best[name].shape) if name in best else None
        if ours != theirs:
            raise ConfigurationError(
                f"{path} is of another network: {name} is {theirs or 'missing'} there and {ours or 'missing'} here; "
                "give --start a run of the same [network]"
            )
    return best
