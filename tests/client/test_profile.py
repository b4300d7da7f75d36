"""Measured times are given to the layers that a plan names, and add up to what the servers stated."""

import pytest
import torch

from client.edge import Denoised
from client.profile import layer_profile
from client.result_stream import MessageCost, ServerCost
from protocols.errors import RemoteProtocolError
from protocols.identifiers import ObjectId, PushId, Role
from protocols.layer_costs import messages, planned_costs
from protocols.packing import PackingMode
from tests.protocols.every_layer import EVERY_LAYER

SIZE = (24, 20)


def denoised(engine: str, *, lost: int = 0) -> Denoised:
    """A result whose servers state made-up times: A computes 1, 2, 3 ... seconds, B waits as long."""
    plan = messages(planned_costs(engine, EVERY_LAYER, *SIZE).plan)
    costs = {}
    for role in Role:
        stated = tuple(
            MessageCost(
                index + 1.0 if role is Role.A else 0.0, index + 1.0 if role is Role.B else 0.0, 8 * sum(p.words for p in parts)
            )
            for index, parts in enumerate(plan[lost:])
        )
        costs[role] = ServerCost(1.0, 1.0, 8, 8, len(plan), 1, 1, messages=stated)
    return Denoised(
        object_id=ObjectId("1" * 32),
        pixels=torch.zeros(SIZE, dtype=torch.float64),
        mode=PackingMode.KEYED,
        model="every",
        push_id=PushId("2" * 32),
        engine=engine,
        sigma=0.1,
        costs=costs,
        upload_bytes=0,
        download_bytes=0,
    )


@pytest.mark.parametrize("engine", ["masked", "crypten"])
def test_times_add_up(engine: str) -> None:
    rows = layer_profile(denoised(engine), EVERY_LAYER)
    costs = planned_costs(engine, EVERY_LAYER, *SIZE)
    count = costs.plan.rounds
    assert [row.planned for row in rows] == list(costs.layers)
    assert sum(row.arithmetic_seconds[Role.A] for row in rows) == pytest.approx(count * (count + 1) / 2)
    assert sum(row.waiting_seconds[Role.B] for row in rows) == pytest.approx(count * (count + 1) / 2)
    assert sum(row.arithmetic_seconds[Role.B] for row in rows) == 0
    assert [row.sent_bytes[Role.A] for row in rows] == [layer.sent_bytes for layer in costs.layers]


def test_json_has_both_servers_by_layer() -> None:
    row = layer_profile(denoised("masked"), EVERY_LAYER)[2].to_json()
    assert row["layer"] == "widen"
    assert row["op"] == "conv"
    assert row["arithmetic_seconds"] == {"A": 2.0, "B": 0.0}
    assert row["waiting_seconds"] == {"A": 0.0, "B": 2.0}


def test_times_of_another_network_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="replaced meanwhile"):
        layer_profile(denoised("masked", lost=1), EVERY_LAYER)
