"""Results of a run that never was: what tables, ratios and figures are tested on."""

from typing import Any

from bench.grid import CHEETAH, CRYPTEN, MASKED, PLAINTEXT, SEMI2K, STOCK
from bench.parties import Row
from bench.results import Cell, Place, Results
from bench.shaping_proxy import LOOPBACK
from bench.workload import BASE, DNCNN

MIB = 1 << 20
ORIGIN = "2026-01-01, commit 0123456789ab"
MACHINE: dict[str, Any] = {"cores": 2, "processor": "made up", "versions": {"torch": "2"}}


def row(online: float, *, sent: float = MIB, offline: float | None = None, **more: float) -> Row:
    """One evaluation. offline: of an engine that has such a phase."""
    phase = {} if offline is None else {"offline_seconds": offline, "dealt_bytes": 2.0 * sent}
    whole = {"whole_seconds": online + (offline or 0.0)}
    return {"online_seconds": online, **phase, **whole, "sent_bytes": sent, "rounds": 30, "peak_rss_bytes": 1e9} | {
        "max_abs_diff": 1e-4,
        **more,
    }


def cell(*rows: Row, stopped: str = "", origin: str = ORIGIN) -> Cell:
    """A cell whose rows were all measured then."""
    return Cell(list(rows), stopped, origins={origin: len(rows)} if rows else {})


def made_up() -> Results:
    """Everything that the numbers to show need, all of it met."""
    plain = {"online_seconds": 0.2, "offline_seconds": 0.0, "whole_seconds": 0.2, "max_abs_diff": 1e-6}
    cells = {
        (BASE, 128, MASKED): [row(0.2, offline=0.3)],
        (BASE, 512, MASKED): [row(2.0, offline=3.0), row(1.0, offline=9.0), row(3.0, offline=1.0)],
        (BASE, 512, CRYPTEN): [row(6.0, offline=6.0)],
        (BASE, 512, STOCK): [row(12.0, dealing_seconds=4.0)],
        (BASE, 512, PLAINTEXT): [plain],
        (DNCNN, 128, MASKED): [row(4.0, offline=5.0, sent=100 * MIB)],
        (DNCNN, 128, STOCK): [row(40.0, sent=900 * MIB, dealing_seconds=8.0)],
        (DNCNN, 128, SEMI2K): [row(60.0, sent=310 * MIB)],
    }
    results = Results(
        about=MACHINE,
        networks={BASE: {"layers": 43, "parameters": 44000, "network": "n", "weights": "w"}},
        cells={Place(network, LOOPBACK, side, engine): cell(*rows) for (network, side, engine), rows in cells.items()},
    )
    results.cells[Place(DNCNN, LOOPBACK, 512, STOCK)] = Cell(stopped="not tried: over 600 s, going by 128x128")
    results.cells[Place(BASE, LOOPBACK, 64, CHEETAH)] = cell(row(700.0), stopped="over 600 s")
    return results
