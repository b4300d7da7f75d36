"""What each layer of a network costs on shares, from its description alone: openings, dealt bytes, multiplications, flags.

Public, for either engine, and known before anything is paid. A large image is counted over all of its tiles.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocols.engines import SessionPlan, session_plan
from protocols.layers import AvgPool, Clamp, Conv, Gate, Layer, Linear, MaxPool, Product, Relu, Scale, Shape
from protocols.masked_plan import WireItem
from protocols.network import Network
from protocols.plan import Plan
from protocols.ring import WORD_BYTES
from protocols.tiles import Tile, tiles_for
from protocols.truncation import flag_probability

INPUT: Final = "input"


@dataclass(frozen=True)
class Part:
    """What one message of a plan holds for one layer."""

    layer: str  # of the description; of an input its own name
    words: int  # that each server sends
    dealt_bytes: int  # to B
    flags: float  # to expect


@dataclass(frozen=True)
class LayerCost:
    """One layer, at one server, online. Of several tiles, the sum."""

    name: str
    op: str
    wires: int  # elements of its result
    sent_bytes: int
    rounds: int  # messages in which no earlier layer opens anything
    macs: int
    dealt_bytes: int  # by the dealer to B
    flags: float  # flagged truncations to expect


@dataclass(frozen=True)
class PlannedCosts:
    """The layers that cost anything, in order of evaluation."""

    plan: SessionPlan  # of the first tile
    tiles: int
    layers: tuple[LayerCost, ...]

    @property
    def total(self) -> LayerCost:
        """Of all layers, under the name `total`."""
        return total_cost(self.layers)


def planned_costs(engine: str, network: Network, height: int, width: int) -> PlannedCosts:
    """Of one evaluation on an engine of protocols.engines.ENGINES, or "" for the one that the servers choose.

    Raises NetworkDescriptionError: the network does not fit size or engine, or the image needs tiles and cannot have them.
    """
    tiles = image_tiles(engine, network, height, width)
    windows = Counter((tile.height, tile.width) for tile in tiles)
    found: dict[str, list[tuple[LayerCost, int]]] = {}
    for (rows, columns), count in windows.items():
        for cost in _costs(session_plan(engine, network, rows, columns), network, rows, columns):
            found.setdefault(cost.name, []).append((cost, count))
    plan = session_plan(engine, network, tiles[0].height, tiles[0].width)
    return PlannedCosts(plan, len(tiles), tuple(_scaled_sum(name, costs[0][0].op, costs) for name, costs in found.items()))


def image_tiles(engine: str, network: Network, height: int, width: int) -> list[Tile]:
    """How the servers cut an image. Raises NetworkDescriptionError."""

    def words(rows: int, columns: int) -> int:
        return session_plan(engine, network, rows, columns).sent_bytes // WORD_BYTES

    return tiles_for(network, height, width, words)


def messages(plan: SessionPlan) -> list[list[Part]]:
    """What is opened, message by message."""
    if isinstance(plan, Plan):
        return [
            [Part(item.wire.partition("/")[0], plan.opened_words(index), plan.correction_bytes(index), 0.0)]
            for index, item in enumerate(plan.correlations)
        ]
    return [
        [
            Part(
                item.layer.partition("|")[0],
                item.words,
                sum(math.prod(shape) for shape in item.dealt_shapes) * WORD_BYTES,
                flag_probability(item.magnitude_bits, item.words) if isinstance(item, WireItem) else 0.0,
            )
            for item in level.items
        ]
        for level in plan.levels
    ]


def layer_macs(layer: Layer, shapes: Mapping[str, Shape]) -> int:
    """Of a convolution or a linear layer those of its definition; one for each element of a product, a scale, a mean, or a ReLU's
    selection. A pool of the largest is a ReLU less than it has elements.
    """
    out = math.prod(shapes[layer.out])
    match layer:
        case Conv():
            return out * (shapes[layer.source][0] // layer.groups) * layer.kernel**2
        case Linear():
            return out * math.prod(shapes[layer.source])
        case Gate() | Product() | Relu() | Scale() | AvgPool():
            return out  # of a ReLU the product with its sign; the comparison's bit operations are no multiplications
        case Clamp():
            return 2 * out  # two ReLUs
        case MaxPool():
            return math.prod(shapes[layer.source]) - out
    return 0


def _costs(plan: SessionPlan, network: Network, height: int, width: int) -> list[LayerCost]:
    """Of one tile: what is opened or multiplied, inputs first."""
    shapes = network.wire_shapes(height, width)
    layers = {layer.out: layer for layer in network.layers}
    parts: dict[str, list[Part]] = {}
    rounds: Counter[str] = Counter()
    for message in messages(plan):
        rounds[message[0].layer] += 1
        for part in message:
            parts.setdefault(part.layer, []).append(part)
    names = [name for name in parts if name not in layers] + list(layers)
    out = []
    for name in names:
        own, layer = parts.get(name, []), layers.get(name)
        macs = layer_macs(layer, shapes) if layer else 0
        if own or macs:
            wires = math.prod(shapes[name]) if name in shapes else sum(part.words for part in own)
            sent, dealt = sum(part.words for part in own) * WORD_BYTES, sum(part.dealt_bytes for part in own)
            flags = sum((part.flags for part in own), 0.0)
            out.append(LayerCost(name, layer.op if layer else INPUT, wires, sent, rounds[name], macs, dealt, flags))
    return out


def total_cost(layers: Sequence[LayerCost]) -> LayerCost:
    """The sum, under the name `total`."""
    return _scaled_sum("total", "", [(layer, 1) for layer in layers])


def _scaled_sum(name: str, op: str, costs: Sequence[tuple[LayerCost, int]]) -> LayerCost:
    """Each so many times."""
    fields = ("wires", "sent_bytes", "rounds", "macs", "dealt_bytes")
    counts: dict[str, int] = {field: sum(getattr(cost, field) * times for cost, times in costs) for field in fields}
    return LayerCost(name, op, **counts, flags=sum((cost.flags * times for cost, times in costs), 0.0))
