"""The table after a run shows what was measured, which repetitions and further planes make more than what was planned."""

import pytest
from rich.console import Console

from client.profile import LayerProfile
from darkroom.plan_command import Circumstances, profile_table
from protocols.identifiers import Role
from protocols.layer_costs import planned_costs
from tests.protocols.every_layer import EVERY_LAYER


def test_a_comparisons_words_take_longer_in_an_estimate() -> None:
    layers = planned_costs("masked", EVERY_LAYER, 24, 20).layers
    given = Circumstances(
        bandwidth_bits_per_second=1e30, rtt_seconds=0.0, macs_per_second=1e30, word_seconds=1.0, compared_word_seconds=5.0
    )
    for layer in layers:
        times = 5.0 if layer.op in ("relu", "max_pool", "clamp") else 1.0
        assert given.seconds(layer) == pytest.approx(times * layer.sent_bytes / 8, abs=1e-9), layer.name
    assert {"relu", "max_pool"} <= {layer.op for layer in layers}
    assert given.seconds(*layers) == pytest.approx(sum(given.seconds(layer) for layer in layers))


def test_bytes_are_those_that_were_sent() -> None:
    layer = next(each for each in planned_costs("masked", EVERY_LAYER, 256, 256).layers if each.op == "conv")
    sent = {Role.A: 3.0 * layer.sent_bytes, Role.B: 2.0 * layer.sent_bytes}
    row = LayerProfile(layer, sent, {Role.A: 0.25, Role.B: 0.5}, {Role.A: 0.75, Role.B: 1.25})
    console = Console(width=200)
    with console.capture() as capture:
        console.print(profile_table([row, row]))
    lines = capture.get().splitlines()
    one, total = (next(line.split() for line in lines if line.startswith(name)) for name in (layer.name, "total"))
    assert (one[3], total[2]) == (f"{3 * layer.sent_bytes / 1e6:,.2f}", f"{6 * layer.sent_bytes / 1e6:,.2f}")
    assert one[-4:] == ["0.250", "0.750", "0.500", "1.250"]
