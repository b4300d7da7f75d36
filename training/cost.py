"""What a network costs on shares: wires opened, multiplications, parameters. Computed from its description."""

import math
from dataclasses import dataclass

from protocols.network import Conv, Gate, Linear, Network, Product, Relu
from protocols.plan import plan_for
from protocols.ring import WORD_BYTES


@dataclass(frozen=True)
class Cost:
    """Per image pixel, except rounds and parameters. One wire word is 8 bytes, sent once by each server."""

    wires_per_pixel: float
    macs_per_pixel: float
    parameters: int
    rounds: int


def network_cost(network: Network, height: int = 512, width: int = 512) -> Cost:
    """Wires and rounds are those of the dealing plan, comparisons of a ReLU included.

    macs: multiplications of convolutions, and one for each output of a gate, a product or a ReLU's selection.
    """
    shapes = network.wire_shapes(height, width)
    macs = 0
    for layer in network.layers:
        out = math.prod(shapes[layer.out])
        match layer:
            case Conv():
                macs += out * (shapes[layer.source][0] // layer.groups) * layer.kernel**2
            case Linear():
                macs += out * math.prod(shapes[layer.source])
            case Gate() | Product() | Relu():
                macs += out  # of a ReLU the product with its sign; the comparison's bit operations are no multiplications
    plan = plan_for(network, height, width)
    words = plan.sent_bytes / WORD_BYTES
    pixels = height * width
    parameters = sum(math.prod(shape) for shape in network.parameter_shapes().values())
    return Cost(words / pixels, macs / pixels, parameters, len(plan.correlations))
