"""What is measured where, in what order, and what is left out. The engines are made up."""

import pytest

from bench.grid import CHEETAH, MASKED, PLAINTEXT, STOCK, Wanted, in_turn, places, ruled_out
from bench.parties import EngineError, Row, TooSlowError
from bench.results import Cell, Place, Results
from bench.shaping_proxy import LOOPBACK
from tests.bench.made_up_results import MIB, ORIGIN, row

WANTED = Wanted(
    networks=["base"],
    engines=[MASKED, STOCK, CHEETAH, PLAINTEXT],
    sides=[256, 128],
    shaped_sides=[128],
    lines=[LOOPBACK, "wan"],
    repetitions=2,
)


def test_sides_ascend_and_cheetah_starts_small() -> None:
    assert places(WANTED) == {
        ("base", LOOPBACK, 32): [MASKED, CHEETAH, PLAINTEXT],
        ("base", LOOPBACK, 64): [MASKED, CHEETAH, PLAINTEXT],
        ("base", LOOPBACK, 128): [MASKED, STOCK, CHEETAH, PLAINTEXT],
        ("base", LOOPBACK, 256): [MASKED, STOCK, CHEETAH, PLAINTEXT],
        ("base", "wan", 32): [MASKED, CHEETAH],
        ("base", "wan", 64): [MASKED, CHEETAH],
        ("base", "wan", 128): [MASKED, STOCK, CHEETAH],
    }


def test_without_cheetah_no_size_is_added() -> None:
    wanted = Wanted(["base"], [MASKED, PLAINTEXT], [32], [128], [LOOPBACK], 1)
    assert places(wanted) == {("base", LOOPBACK, 32): [MASKED, PLAINTEXT]}


def place(side: int, engine: str = STOCK) -> Place:
    return Place("base", LOOPBACK, side, engine)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (Cell([row(10.0)]), ""),
        (Cell([row(600.0)]), "not tried: over 600 s, going by 128x128"),
        (Cell([row(700.0)], stopped="over 600 s"), "not tried: given up at 128x128"),
        (Cell(stopped="failed: it ended", failed=True), ""),
        (Cell(stopped="not tried: over 600 s"), "not tried: given up at 128x128"),
    ],
)
def test_a_larger_size_is_left_out_where_a_smaller_one_tells(cell: Cell, reason: str) -> None:
    results = Results(cells={place(128): cell, place(64): Cell([row(1.0)]), place(128, MASKED): Cell([row(1e9)])})
    assert ruled_out(results, place(256), 600.0, 64e9) == reason


def test_what_would_not_fit_into_memory_is_not_tried() -> None:
    """3 GB a server at 128x128 are 11 GB at 256x256: two servers of them and a dealer."""
    cell = Cell([row(1.0, offline=1.0, peak_rss_bytes=3e9, dealer_peak_rss_bytes=1e9)])
    results = Results(cells={place(128): cell})
    assert ruled_out(results, place(256), 600.0, 64e9) == ""
    assert ruled_out(results, place(256), 600.0, 24e9) == "not tried: 24 GB for both servers here, going by 128x128"


def test_an_image_that_is_cut_into_tiles_needs_no_more_memory() -> None:
    """512 MiB are opened at 128x128, of the 768 that are not cut."""
    cell = Cell([row(1.0, offline=1.0, sent=512 * MIB, peak_rss_bytes=3e9, dealer_peak_rss_bytes=1e9)])
    results = Results(cells={place(side, engine): cell for side in (128,) for engine in (MASKED, STOCK)})
    assert ruled_out(results, place(512, MASKED), 600.0, 12e9) == ""
    assert ruled_out(results, place(512, MASKED), 600.0, 9e9) == "not tried: 10 GB for both servers here, going by 128x128"
    assert ruled_out(results, place(512, STOCK), 600.0, 64e9) == "not tried: 93 GB for both servers here, going by 128x128"


class MadeUp:
    """An engine that gives what it was told to give, and notes when."""

    def __init__(self, name: str, outcomes: list[Row | EngineError], order: list[str]) -> None:
        self.name, self.outcomes, self.order = name, outcomes, order

    def evaluate(self) -> Row:
        self.order.append(self.name)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, EngineError):
            raise outcome
        return outcome

    def close(self) -> None:
        self.order.append(f"{self.name} closed")


def turns(outcomes: dict[str, list[Row | EngineError]], cells: dict[str, Cell]) -> tuple[list[str], int]:
    """The order of evaluations, and how often results were kept."""
    order: list[str] = []
    engines = {name: MadeUp(name, list(rows), order) for name, rows in outcomes.items()}
    saved: list[int] = []
    in_turn(cells, engines.__getitem__, WANTED, ORIGIN, lambda: saved.append(1), lambda _: None)
    return order, len(saved)


def test_engines_take_turns_and_the_first_evaluation_is_a_warm_up() -> None:
    cells = {MASKED: Cell(), STOCK: Cell()}
    order, saved = turns({MASKED: [row(0.5), row(1.0), row(2.0)], STOCK: [row(0.7), row(3.0), row(4.0)]}, cells)
    assert order == [MASKED, STOCK] * 3
    assert cells[MASKED].rows == [row(1.0), row(2.0)]
    assert cells[STOCK].rows == [row(3.0), row(4.0)]
    assert saved == 6


def test_a_long_first_evaluation_counts() -> None:
    cells = {STOCK: Cell()}
    turns({STOCK: [row(31.0), row(32.0)]}, cells)
    assert cells[STOCK].rows == [row(31.0), row(32.0)]


def test_a_run_goes_on_where_it_was() -> None:
    before = "2025-12-24, commit unknown"
    cells = {MASKED: Cell([row(9.0)], origins={before: 1}), STOCK: Cell([row(9.0)] * 2)}
    order, _ = turns({MASKED: [row(0.5), row(1.0)], STOCK: []}, cells)
    assert order == [MASKED, MASKED]
    assert cells[MASKED].rows == [row(9.0), row(1.0)]
    assert cells[MASKED].origins == {before: 1, ORIGIN: 1}


def test_what_is_given_up_is_stopped_and_the_others_go_on() -> None:
    cells = {MASKED: Cell(), STOCK: Cell(), CHEETAH: Cell()}
    order, _ = turns(
        {
            MASKED: [row(0.5), row(1.0), row(2.0)],
            STOCK: [TooSlowError("no answer in time")],
            CHEETAH: [row(1.0), EngineError("it ended")],
        },
        cells,
    )
    assert order == [MASKED, STOCK, f"{STOCK} closed", CHEETAH, MASKED, CHEETAH, f"{CHEETAH} closed", MASKED]
    assert (cells[STOCK].stopped, cells[STOCK].failed) == ("over 600 s", False)
    assert (cells[CHEETAH].stopped, cells[CHEETAH].failed) == ("failed: it ended", True)
    assert len(cells[MASKED].rows) == 2


def test_an_evaluation_past_the_limit_is_a_figure_and_the_last() -> None:
    cells = {STOCK: Cell()}
    order, _ = turns({STOCK: [row(601.0)]}, cells)
    assert order == [STOCK, f"{STOCK} closed"]
    assert cells[STOCK] == Cell([row(601.0)], "over 600 s", origins={ORIGIN: 1})
