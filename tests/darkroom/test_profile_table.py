"""The table after a run shows what was measured, which repetitions and further planes make more than what was planned."""

from rich.console import Console

from client.profile import LayerProfile
from darkroom.plan_command import profile_table
from protocols.identifiers import Role
from protocols.layer_costs import planned_costs
from tests.protocols.every_layer import EVERY_LAYER


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
