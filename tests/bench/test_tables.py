"""The written section, and its figures."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.figures import LEFT, RIGHT, WIDTH, Bar, svg, write_figures
from bench.grid import MASKED, STOCK
from bench.results import Cell, Place, Results
from bench.shaping_proxy import LOOPBACK
from bench.tables import BEGIN, END, HEADER, seconds, section, write_section
from bench.workload import BASE, DNCNN
from protocols.errors import ConfigurationError
from tests.bench.made_up_results import MACHINE, ORIGIN, cell, made_up, row


def table_rows(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of the measured tables by network, and by size and engine."""
    rows = {}
    network = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("### "):
            network = line
        elif len(cells) == len(HEADER) and cells[0].isdigit():
            rows[network.removeprefix("### "), f"{cells[0]} {cells[1]}"] = dict(zip(HEADER, cells, strict=True))
    return rows


def test_the_table_of_a_run_that_never_was() -> None:
    rows = table_rows(section(made_up(), {}))
    ours = rows["`base` (shipped). Loopback", "512 Darkroom, masked (TLS, dealer)"]
    assert ours["online s"] == "2.00"
    assert ours["offline s"] == "3.00"
    assert ours["sent per server online MiB"] == "1.0"
    assert ours["offline MiB (dealt to B)"] == "2.0"
    assert ours["runs"] == "3 †"
    stock = rows["`base` (shipped). Loopback", "512 stock CrypTen (TFP, gloo)"]
    assert stock["offline s"] == "inside online: 4.00"
    assert stock["offline MiB (dealt to B)"] == "inside online"
    plain = rows["`base` (shipped). Loopback", "512 plaintext PyTorch, one thread"]
    assert (plain["offline s"], plain["rounds"], plain["sent per server online MiB"]) == ("-", "-", "-")
    assert rows["DnCNN-17-64. Loopback", "128 SPU SEMI2K (TFP, brpc)"]["offline s"] == "inside online"


def test_what_was_given_up_is_marked() -> None:
    rows = table_rows(section(made_up(), {}))
    left_out = rows["DnCNN-17-64. Loopback", "512 stock CrypTen (TFP, gloo)"]
    assert left_out["online s"] == "-"
    assert left_out["runs"] == "not tried: over 600 s, going by 128x128"
    assert rows["`base` (shipped). Loopback", "64 SPU CHEETAH (brpc)"]["runs"] == "1 †; over 600 s"


def test_evaluations_that_were_repeated_after_a_flag_are_counted() -> None:
    results = made_up()
    results.cells[Place(BASE, LOOPBACK, 512, MASKED)] = Cell([row(4.0, offline=6.0, flags=1), row(2.0, offline=3.0, flags=0)])
    rows = table_rows(section(results, {}))
    assert rows["`base` (shipped). Loopback", "512 Darkroom, masked (TLS, dealer)"]["runs"] == "2 †; 1 of them repeated, flagged"


def test_every_row_has_all_columns() -> None:
    for line in section(made_up(), {}).splitlines():
        if line.startswith("|"):
            assert line.count("|") in (len(HEADER) + 1, 5)


def test_versions_and_machine_are_told() -> None:
    text = section(made_up(), {})
    assert f"{ORIGIN}; 2 cores (made up). torch 2. Medians of 1 to 3 (†: of fewer than 5); errors" in text


def test_the_number_of_runs_is_that_of_the_rows() -> None:
    results = Results(about=MACHINE, cells={Place(BASE, LOOPBACK, 512, MASKED): cell(*[row(1.0, offline=1.0)] * 5)})
    text = section(results, {})
    assert "Medians of 5; errors" in text
    assert table_rows(text)["`base` (shipped). Loopback", "512 Darkroom, masked (TLS, dealer)"]["runs"] == "5"
    assert "†" not in text
    assert "Nothing measured; 2 cores (made up). torch 2. No medians" in section(Results(about=MACHINE), {})


def test_rows_of_several_days_are_told_apart() -> None:
    later = "2026-01-05, commit ba9876543210 with local changes"
    results = made_up()
    mixed = results.cells[Place(BASE, LOOPBACK, 512, MASKED)]
    mixed.add(row(2.0, offline=3.0), later)
    text = section(results, {})
    assert f"[1] {ORIGIN}, [2] {later}; 2 cores" in text
    rows = table_rows(text)
    assert rows["`base` (shipped). Loopback", "512 Darkroom, masked (TLS, dealer)"]["runs"] == "4 †; [1], [2]"
    assert rows["`base` (shipped). Loopback", "512 stock CrypTen (TFP, gloo)"]["runs"] == "1 †; [1]"


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.012"), (1.236, "1.24"), (12.34, "12.3"), (123.4, "123")])
def test_seconds_have_few_figures(value: float, text: str) -> None:
    assert seconds(value) == text


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert write_section(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ConfigurationError, match="marks"):
        write_section("no marks", "new")


def test_the_page_has_its_marks() -> None:
    write_section(Path("docs/benchmarks.md").read_text(), "")


def test_a_figure_for_each_network_and_line(tmp_path: Path) -> None:
    written = write_figures(made_up(), tmp_path / "benchmarks", tmp_path)
    assert written == {
        (BASE, LOOPBACK): "benchmarks/base-loopback.svg",
        (DNCNN, LOOPBACK): "benchmarks/dncnn-loopback.svg",
    }
    drawn = (tmp_path / "benchmarks/base-loopback.svg").read_text()
    ElementTree.fromstring(drawn)  # noqa: S314 - our own
    assert "2.00 + 3.00 s" in drawn
    assert "![Seconds by engine and size](benchmarks/base-loopback.svg)" in section(made_up(), written)


def test_nothing_measured_draws_nothing(tmp_path: Path) -> None:
    assert write_figures(Results(), tmp_path / "benchmarks", tmp_path) == {}


def test_bars_are_as_long_as_they_are_slow() -> None:
    root = ElementTree.fromstring(svg("made up", {128: [Bar(MASKED, 1.0, 10.0), Bar(STOCK, 100.0, 100.0)]}))  # noqa: S314
    widths = [float(bar.get("width", "")) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    span = WIDTH - LEFT - RIGHT
    assert widths == pytest.approx([span / 2, 1.0, span, span], abs=0.1)
