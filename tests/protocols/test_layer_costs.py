"""What the layers cost adds up to what the plan says, on both engines and over tiles; a known network costs known amounts."""

import pytest

from protocols.engines import ENGINES, session_plan
from protocols.errors import NetworkDescriptionError
from protocols.layer_costs import image_tiles, messages, planned_costs
from protocols.layers import (
    Add,
    AvgPool,
    Clamp,
    Concat,
    Conv,
    Gate,
    Layer,
    Linear,
    MaxPool,
    PixelUnshuffle,
    Product,
    Relu,
    Scale,
    SigmaMap,
)
from protocols.network import IMAGE_WIRE, Network, WireRange
from tests.protocols.every_layer import EVERY_LAYER

RELU_SENT = 8 + 10 / 8  # bytes of an element: the wire, and the bits in between

SMALL = Network(
    (
        Conv("conv", IMAGE_WIRE, 4, kernel=3, padding=1),
        Gate("gate", "conv"),
        Conv("exit", "gate", 1, kernel=1),
        Add("output", IMAGE_WIRE, "exit"),
    ),
    ranges=(("conv", WireRange(13, 3)),),
)


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_add_up_to_the_plan(engine: str) -> None:
    costs = planned_costs(engine, EVERY_LAYER, 24, 20)
    plan = session_plan(engine, EVERY_LAYER, 24, 20)
    total = costs.total
    assert (costs.tiles, costs.plan) == (1, plan)
    assert (total.sent_bytes, total.dealt_bytes, total.rounds) == (plan.sent_bytes, plan.dealt_bytes, plan.rounds)
    assert total.flags == pytest.approx(getattr(plan, "expected_flags", 0.0))
    known = {layer.out for layer in EVERY_LAYER.layers}
    assert all(layer.name in known or layer.op == "input" for layer in costs.layers)


def test_a_known_network_costs_known_amounts() -> None:
    image, conv, gate, out = planned_costs("masked", SMALL, 16, 32).layers
    assert (image.op, image.sent_bytes, image.rounds, image.dealt_bytes, image.macs) == ("input", 512 * 8, 1, 0, 0)
    assert (conv.wires, conv.sent_bytes, conv.rounds, conv.dealt_bytes, conv.macs) == (2048, 16384, 1, 16384, 2048 * 9)
    assert (gate.wires, gate.sent_bytes, gate.rounds, gate.dealt_bytes, gate.macs) == (1024, 8192, 1, 8192, 1024)
    assert (out.name, out.macs) == ("exit", 512 * 2)
    assert conv.flags == 2048 * 2.0 ** (16 + 16 + 3 + 1 - 64)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_clamp_costs_two_relus_in_the_messages_of_one(engine: str) -> None:
    relu, clamp = (Network((Scale("s", IMAGE_WIRE, 1.0), layer)) for layer in (Relu("r", "s"), Clamp("r", "s", 0.0, 1.0)))
    costs = [planned_costs(engine, network, 16, 16).layers[-1] for network in (relu, clamp)]
    one, two = ((cost.sent_bytes, cost.macs) for cost in costs)
    assert two == tuple(2 * value for value in one)
    assert costs[0].rounds == costs[1].rounds == (3 if engine == "masked" else 9)
    assert 2 * costs[0].dealt_bytes <= costs[1].dealt_bytes <= 2.1 * costs[0].dealt_bytes  # one comparison is a bit wider


@pytest.mark.parametrize(
    ("layer", "elements", "sent", "rounds", "dealt", "macs"),
    [
        (Linear("y", "x", 10), 10, 8 * 10, 1, 8 * 10, 10 * 512),
        (Product("y", "x", "x"), 512, 8 * 512, 1, 8 * 512, 512),
        (Scale("y", "x", 0.3), 512, 8 * 512, 1, 8 * 512, 512),
        (AvgPool("y", "x", kernel=2), 128, 8 * 128, 1, 8 * 128, 128),
        (AvgPool("y", "x", kernel=0), 1, 8, 1, 8, 1),
        (MaxPool("y", "x", kernel=2), 128, 3 * RELU_SENT * 128, 2 * 3, None, 3 * 128),
    ],
    ids=lambda value: getattr(value, "op", None),
)
def test_a_layer_costs_what_the_table_says(
    layer: Layer, elements: int, sent: float, rounds: int, dealt: int | None, macs: int
) -> None:
    """docs/engine.md#cost, by hand. A difference has k = 21 bits here: five blocks, so nine masked bits and a sign."""
    network = Network((Scale("x", IMAGE_WIRE, 0.5), layer), ranges=(("x", WireRange(16, 2)),))
    cost = planned_costs("masked", network, 16, 32).layers[-1]
    assert (cost.wires >= elements, cost.sent_bytes, cost.rounds, cost.macs) == (True, sent, rounds, macs)
    assert dealt is None or cost.dealt_bytes == dealt


@pytest.mark.parametrize("layer", [Add("y", "x", "x"), Concat("y", "x", "x"), PixelUnshuffle("y", "x", 2), SigmaMap("y", "x")])
def test_what_is_local_costs_nothing(layer: Layer) -> None:
    alone, followed = (
        planned_costs("masked", Network((Scale("x", IMAGE_WIRE, 0.5), *more)), 16, 32).total for more in ((), (layer,))
    )
    opened = 8 if isinstance(layer, SigmaMap) else 0  # the level is an input of its own
    assert followed.sent_bytes - alone.sent_bytes == opened
    assert (followed.dealt_bytes, followed.macs) == (alone.dealt_bytes, alone.macs)


def test_the_engine_is_chosen_as_the_servers_choose_it() -> None:
    wide = Network((Conv("conv", IMAGE_WIRE, 1, kernel=1), Relu("out", "conv")), ranges=(("conv", WireRange(16, 20)),))
    assert planned_costs("", SMALL, 16, 16).plan.engine == "masked"
    assert planned_costs("", wide, 16, 16).plan.engine == "crypten"  # no circuit for 38 bits
    with pytest.raises(NetworkDescriptionError, match="38 bits"):
        planned_costs("masked", wide, 16, 16)


def test_of_a_large_image_all_tiles_are_counted() -> None:
    wide = Network((Conv("conv", IMAGE_WIRE, 64, kernel=3, padding=1), Conv("exit", "conv", 1, kernel=3, padding=1)))
    tiles = image_tiles("masked", wide, 1300, 1500)
    costs = planned_costs("masked", wide, 1300, 1500)
    plans = [session_plan("masked", wide, tile.height, tile.width) for tile in tiles]
    assert costs.tiles == len(tiles) > 1
    assert costs.total.sent_bytes == sum(plan.sent_bytes for plan in plans)
    assert costs.total.rounds == sum(plan.rounds for plan in plans)
    assert len(costs.layers) == 3


def test_parallel_openings_share_a_message() -> None:
    costs = planned_costs("masked", EVERY_LAYER, 24, 20)
    rounds = {layer.name: layer.rounds for layer in costs.layers}
    assert rounds["rectified"] + rounds["largest"] > 3  # a ReLU and the pool's comparisons, partly in the same messages
    assert any(len({part.layer for part in message}) > 1 for message in messages(costs.plan))
