"""Asked and measured."""

from bench.grid import MASKED, STOCK
from bench.ratios import UNKNOWN, numbers_to_show
from bench.results import Cell, Place, Results
from bench.shaping_proxy import LOOPBACK
from bench.workload import BASE, DNCNN
from tests.bench.made_up_results import MIB, made_up, row


def by_name(results: Results) -> dict[str, tuple[str, str]]:
    return {ratio.about: (ratio.measured, ratio.verdict) for ratio in numbers_to_show(results)}


def test_numbers_of_a_run_that_never_was() -> None:
    assert by_name(made_up()) == {
        "base, 512x512: online, stock CrypTen over ours": ("6.00 †", "met"),  # 12 over the median 2
        "base, 512x512: online plus offline, stock CrypTen over ours": ("2.40 †", "met"),  # 12 over 2 + 3
        "DnCNN-17-64, 128x128: online, stock CrypTen over ours": ("10.0 †", "met"),
        "DnCNN-17-64, 128x128: online, SPU SEMI2K over ours": ("15.0 †", "met"),
        "DnCNN-17-64, 128x128: bytes sent per server, stock CrypTen over ours": ("9.00 †", "met"),
        "DnCNN-17-64, 128x128: bytes sent per server, SPU SEMI2K over ours": ("3.10 †", "met"),
        "DnCNN-17-64, 128x128: online plus offline, stock CrypTen over ours": ("4.44 †", "met"),
        "DnCNN-17-64, 128x128: online plus offline, SPU SEMI2K over ours": ("6.67 †", "met"),
        "128x128: online, DnCNN in stock CrypTen over `base` here": ("200.0 †", "met"),
        "128x128: bytes sent per server, DnCNN in stock CrypTen over `base` here": ("900.0 †", "met"),
        "base, 512x512: online, ours over plaintext PyTorch": ("10.0 †", "met"),
        "base, 512x512: rounds": ("30 †", "met"),
        "base, 512x512: peak memory per server": ("1.00 GB †", "met"),
        "base: largest error against plaintext, at 128, 512": ("1.00e-04 †", "met"),
        "DnCNN-17-64: largest error against plaintext, at 128": ("1.00e-04 †", "met"),
    }


def test_what_rests_on_five_evaluations_is_not_marked() -> None:
    results = made_up()
    for side, engine in ((512, MASKED), (512, STOCK)):
        cell = results.cells[Place(BASE, LOOPBACK, side, engine)]
        cell.rows = [cell.rows[0]] * 5
    measured = by_name(results)
    assert measured["base, 512x512: online, stock CrypTen over ours"] == ("6.00", "met")
    assert measured["base, 512x512: rounds"] == ("30", "met")
    assert measured["base, 512x512: online, ours over plaintext PyTorch"] == ("10.0 †", "met")  # plaintext ran once


def test_what_is_missed_is_said() -> None:
    results = made_up()
    results.cells[Place(BASE, LOOPBACK, 512, MASKED)] = Cell(
        [row(4.0, offline=10.0, rounds=47, peak_rss_bytes=2e9, max_abs_diff=1e-3)]
    )
    results.cells[Place(DNCNN, LOOPBACK, 128, MASKED)] = Cell([row(4.0, offline=36.0, sent=200 * MIB)])
    verdicts = by_name(results)
    missed = {about for about, (_, verdict) in verdicts.items() if verdict == "**not met**"}
    assert missed == {
        "base, 512x512: online, stock CrypTen over ours",
        "base, 512x512: online plus offline, stock CrypTen over ours",
        "DnCNN-17-64, 128x128: bytes sent per server, stock CrypTen over ours",
        "DnCNN-17-64, 128x128: bytes sent per server, SPU SEMI2K over ours",
        "DnCNN-17-64, 128x128: online plus offline, stock CrypTen over ours",  # equal is not faster
        "base, 512x512: online, ours over plaintext PyTorch",
        "base, 512x512: rounds",
        "base, 512x512: peak memory per server",
        "base: largest error against plaintext, at 128, 512",
    }


def test_nothing_measured_claims_nothing() -> None:
    assert {ratio.met for ratio in numbers_to_show(Results())} == {None}
    assert {ratio.measured for ratio in numbers_to_show(Results())} == {UNKNOWN}


def test_a_peer_that_was_given_up_claims_nothing() -> None:
    results = made_up()
    results.cells[Place(BASE, LOOPBACK, 512, STOCK)] = Cell(stopped="over 600 s")
    assert by_name(results)["base, 512x512: online, stock CrypTen over ours"] == (UNKNOWN, "-")
