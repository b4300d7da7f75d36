"""What a network costs on shares: wires opened, multiplications, parameters. Computed from its description."""

import math
from dataclasses import dataclass

from protocols.network import Conv, Gate, Linear, Network, Product, Relu


@dataclass(frozen=True)
class Cost:
    """Per image pixel, except rounds and parameters. One wire word is 8 bytes, sent once by each server."""

    wires_per_pixel: float
    macs_per_pixel: float
    parameters: int
    rounds: int


def network_cost(network: Network, height: int = 512, width: int = 512) -> Cost:
    """Count each wire that a convolution, a gate or a product reads once; both halves of a gate's input are opened.

    macs: multiplications of convolutions, and one for each gate output. rounds: wires that are opened one after the
    other. ReLU is not counted: it has its own cost, and the networks built here have none.
    """
    shapes = network.wire_shapes(height, width)
    opened: set[str] = set()
    macs = 0
    for layer in network.layers:
        out = math.prod(shapes[layer.out])
        match layer:
            case Conv():
                opened.add(layer.source)
                macs += out * (shapes[layer.source][0] // layer.groups) * layer.kernel**2
            case Linear():
                opened.add(layer.source)
                macs += out * math.prod(shapes[layer.source])
            case Gate() | Product():
                opened.update(layer.sources)
                macs += out
            case Relu():
                raise NotImplementedError(f"{layer.out}: the cost of a ReLU is not counted here")
    words = sum(math.prod(shapes[name]) for name in opened)
    pixels = height * width
    parameters = sum(math.prod(shape) for shape in network.parameter_shapes().values())
    return Cost(words / pixels, macs / pixels, parameters, len(opened))
