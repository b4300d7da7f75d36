"""What a network costs on shares: wires opened, multiplications, parameters. Computed from its description."""

import math
from dataclasses import dataclass

from protocols.engines import session_plan
from protocols.layer_costs import layer_macs
from protocols.network import Network
from protocols.ring import WORD_BYTES


@dataclass(frozen=True)
class Cost:
    """Per image pixel, except rounds and parameters. One wire word is 8 bytes, sent once by each server."""

    wires_per_pixel: float
    macs_per_pixel: float
    parameters: int
    rounds: int


def network_cost(network: Network, height: int = 512, width: int = 512) -> Cost:
    """Wires and rounds are those of the plan of the engine that evaluates it (`darkroom plan`), the image and a ReLU's bits too.

    macs: as protocols.layer_costs counts them.
    """
    shapes = network.wire_shapes(height, width)
    macs = sum(layer_macs(layer, shapes) for layer in network.layers)
    plan = session_plan("", network, height, width)
    words = plan.sent_bytes / WORD_BYTES
    pixels = height * width
    parameters = sum(math.prod(shape) for shape in network.parameter_shapes().values())
    return Cost(words / pixels, macs / pixels, parameters, plan.rounds)
