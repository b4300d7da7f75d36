"""Results are kept as they come, and continued."""

from pathlib import Path
from typing import Any

import pytest

from bench import results as kept
from bench.results import Cell, Place, Results
from protocols.errors import BadInputError
from tests.bench.made_up_results import MACHINE, made_up, row

PLACE = Place("base", "lan", 128, "masked")


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    results = made_up()
    kept.save(tmp_path / "new" / "results.json", results)
    assert kept.load(tmp_path / "new" / "results.json") == results


def test_no_file_is_an_empty_start(tmp_path: Path) -> None:
    assert kept.load(tmp_path / "results.json") == Results()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 2}', '{"format": 2, "cells": {"base|lan": {}}, "about": {}, "networks": {}}']
)
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match="results.json"):
        kept.load(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"format": 1}')  # whose rows say nothing of when they were measured
    with pytest.raises(BadInputError, match="--fresh"):
        kept.load(path)


def test_figures_of_two_networks_are_not_mixed() -> None:
    results = Results()
    results.check_network("base", {"weights": "one"})
    results.check_network("base", {"weights": "one"})
    with pytest.raises(BadInputError, match="another base"):
        results.check_network("base", {"weights": "two"})


def test_rows_without_a_date_are_refused(tmp_path: Path) -> None:
    results = made_up()
    results.cells[PLACE] = Cell([row(1.0)])
    kept.save(tmp_path / "results.json", results)
    with pytest.raises(BadInputError, match=r"when each row of base\|lan\|128\|masked was measured; start again with --fresh"):
        kept.load(tmp_path / "results.json")


def test_a_cell_counts_its_rows_by_day() -> None:
    cell = Cell()
    for origin in ("one", "one", "two"):
        cell.add(row(1.0), origin)
    assert cell.origins == {"one": 2, "two": 1}
    assert Results(cells={PLACE: cell}).origins == ["one", "two"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cores": 4}, "cores was 2 and is 4"),
        ({"processor": "another"}, "processor was made up and is another"),
        ({"versions": {"torch": "3"}}, "torch was 2 and is 3; start again with --fresh, or name another --json"),
    ],
)
def test_figures_of_two_machines_are_not_mixed(change: dict[str, Any], message: str) -> None:
    results = made_up()
    results.check_machine(MACHINE)
    with pytest.raises(BadInputError, match=message):
        results.check_machine(MACHINE | change)
    assert results.about == MACHINE


def test_a_peer_may_be_added_and_left_out() -> None:
    results = Results()
    results.check_machine(MACHINE)
    with_peer = MACHINE | {"versions": {"torch": "2", "spu": "0.9"}}
    results.check_machine(with_peer)
    results.check_machine(MACHINE)
    assert results.about == with_peer  # its rows are still there
    with pytest.raises(BadInputError, match=r"spu was 0\.9 and is 1"):
        results.check_machine(MACHINE | {"versions": {"torch": "2", "spu": "1"}})


def test_medians_by_figure_and_the_highest_error_and_peak() -> None:
    cell = Cell(
        [
            row(1.0, offline=9.0, max_abs_diff=1e-5, peak_rss_bytes=3.0),
            row(2.0, offline=1.0, max_abs_diff=3e-5, peak_rss_bytes=1.0),
            row(9.0, offline=2.0, max_abs_diff=2e-5, peak_rss_bytes=2.0),
        ]
    )
    medians = cell.medians
    assert (medians["online_seconds"], medians["offline_seconds"]) == (2.0, 2.0)
    assert (medians["max_abs_diff"], medians["peak_rss_bytes"]) == (3e-5, 3.0)
    assert medians["runs"] == 3


def test_a_cell_is_complete_with_its_rows_or_with_a_reason() -> None:
    assert not Cell([row(1.0)]).complete(2)
    assert Cell([row(1.0)] * 2).complete(2)
    assert Cell([], stopped="over 600 s").complete(2)


def test_what_failed_is_tried_again_and_what_was_slow_is_not() -> None:
    slow = Place("base", "lan", 256, "masked")
    results = Results(cells={PLACE: Cell(stopped="failed: it ended", failed=True), slow: Cell(stopped="over 600 s")})
    results.forget_failures()
    assert list(results.cells) == [slow]


def test_no_medians_where_nothing_was_measured() -> None:
    assert Results().medians("base", "masked", 128, "lan") is None
    assert Results(cells={PLACE: Cell(stopped="over 600 s")}).medians("base", "masked", 128, "lan") is None
