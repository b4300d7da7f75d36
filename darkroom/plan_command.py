"""`darkroom plan`: what an evaluation costs, before it is paid; and the same table as measured. Asks no server."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from rich.table import Table

from client.model_file import load_model
from client.origin import MAX_PIXELS
from client.profile import LayerProfile
from darkroom.output import err, result_table, write_json
from darkroom.simulation import find_model
from protocols import ring
from protocols.errors import BadInputError
from protocols.identifiers import Role
from protocols.layer_costs import LayerCost, PlannedCosts, planned_costs, total_cost
from protocols.layers import Clamp, MaxPool, Relu

WORD_SECONDS: Final = 1e-8  # a word's share of everything but multiplications, on one core: docs/engine.md#cost
COMPARED_WORD_SECONDS: Final = 2e-8  # of a word that a comparison sends, whose bits are worked on one by one
COMPARISONS: Final = (Relu.op, MaxPool.op, Clamp.op)
SIDE: Final = 64  # of the convolution that is timed, as deep as a layer of DnCNN
CHANNELS: Final = 64
REPEATS: Final = 5


@dataclass(frozen=True)
class Circumstances:
    """What the seconds of a plan rest on."""

    bandwidth_bits_per_second: float  # in each direction
    rtt_seconds: float
    macs_per_second: float
    word_seconds: float = WORD_SECONDS
    compared_word_seconds: float = COMPARED_WORD_SECONDS

    def seconds(self, *costs: LayerCost) -> float:
        """Of layers, online. A message takes half a round trip: both servers send at once. Nothing is taken to overlap."""
        return sum(self._seconds(cost) for cost in costs)

    def _seconds(self, cost: LayerCost) -> float:
        word_seconds = self.compared_word_seconds if cost.op in COMPARISONS else self.word_seconds
        arithmetic = cost.macs / self.macs_per_second + cost.sent_bytes / ring.WORD_BYTES * word_seconds
        return arithmetic + cost.sent_bytes * 8 / self.bandwidth_bits_per_second + cost.rounds * self.rtt_seconds / 2


def run_plan(name: str, height: int, width: int, *, bandwidth: float, rtt: float, engine: str, json_path: str | None) -> None:
    """Show what one evaluation of a model costs. bandwidth: bits per second. rtt: seconds. Raises DarkroomError."""
    model = load_model(find_model(name))
    if height * width > MAX_PIXELS:
        raise BadInputError(f"{height}x{width} is {height * width:,} pixels, and an image has at most {MAX_PIXELS:,}")
    costs = planned_costs(engine, model.network, height, width)
    given = Circumstances(bandwidth, rtt, measured_rate())
    result_table(_planned_table(costs, given), json_path)
    tiles = f", {costs.tiles} tiles" if costs.tiles > 1 else ""
    err().print(
        f"{model.name} on {height}x{width}, engine {costs.plan.engine}{tiles}. Sent: by each server. Dealt: to server B. Flags:"
        f" repetitions to expect. Seconds online: {given.macs_per_second / 1e9:.1f}e9 multiplications a second, as just measured"
        f" here on one core, {bandwidth / 1e6:g} Mbit/s each way, {rtt * 1e3:g} ms.",
        markup=False,
    )
    write_json(_plan_json(model.name, height, width, costs, given), json_path)


def measured_rate() -> float:
    """Multiplications per second of a convolution over the ring, on one core of this machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image = torch.ones(CHANNELS, SIDE, SIDE, dtype=torch.int64)
        weight = torch.ones(CHANNELS, CHANNELS, 3, 3, dtype=torch.int64)
        geometry = ring.ConvGeometry(padding=1)
        best = min(_timed(image, weight, geometry) for _ in range(REPEATS))
    finally:
        torch.set_num_threads(threads)
    return image.numel() * weight[:, 0].numel() / best


def _timed(image: torch.Tensor, weight: torch.Tensor, geometry: ring.ConvGeometry) -> float:
    started = time.perf_counter()
    ring.conv2d(image, weight, geometry)
    return time.perf_counter() - started


def profile_table(rows: Sequence[LayerProfile]) -> Table:
    """The plan's table, with the bytes (of two, the larger) and seconds that the servers measured."""
    table = _table("A computes", "A waits", "B computes", "B waits")
    table.caption = "MB sent and seconds: as measured, of all planes, tiles and repetitions. The rest: as planned, of one plane."
    table.caption_justify = "left"
    seconds = [[row.seconds(role)[part] for role in Role for part in range(2)] for row in rows]
    for row, own in zip(rows, seconds, strict=True):
        table.add_row(*_cells(row.planned, max(row.sent_bytes.values())), *(f"{value:.3f}" for value in own))
    table.add_section()
    sums = [sum(column) for column in zip(*seconds, strict=True)]
    sent = max(sum(row.sent_bytes[role] for row in rows) for role in Role)
    table.add_row(*_cells(total_cost([row.planned for row in rows]), sent), *(f"{value:.3f}" for value in sums))
    return table


def _planned_table(costs: PlannedCosts, given: Circumstances) -> Table:
    table = _table("flags", "seconds")
    for layer in costs.layers:
        flags = f"{layer.flags:.1e}" if layer.flags else ""
        table.add_row(*_cells(layer, layer.sent_bytes), flags, f"{given.seconds(layer):.3f}")
    table.add_section()
    table.add_row(*_cells(costs.total, costs.total.sent_bytes), f"{costs.total.flags:.1e}", f"{given.seconds(*costs.layers):.3f}")
    return table


def _table(*further: str) -> Table:
    table = Table("layer", "kind", box=None, pad_edge=False)
    for name in ("wires", "MB sent", "rounds", "10^6 MACs", "MB dealt", *further):
        table.add_column(name, justify="right")
    return table


def _cells(cost: LayerCost, sent_bytes: float) -> list[str]:
    counts = [f"{cost.wires:,}", f"{sent_bytes / 1e6:,.2f}", str(cost.rounds), f"{cost.macs / 1e6:,.1f}"]
    return [cost.name, cost.op, *counts, f"{cost.dealt_bytes / 1e6:,.2f}"]


def _plan_json(name: str, height: int, width: int, costs: PlannedCosts, given: Circumstances) -> dict[str, Any]:
    def described(cost: LayerCost, *parts: LayerCost) -> dict[str, Any]:
        return {**asdict(cost), "seconds": given.seconds(*parts or (cost,))}

    return {
        "model": name,
        "engine": costs.plan.engine,
        "image": {"height": height, "width": width},
        "tiles": costs.tiles,
        "circumstances": asdict(given),
        "layers": [described(layer) for layer in costs.layers],
        "total": described(costs.total, *costs.layers),
    }
