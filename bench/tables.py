"""The benchmark's figures as Markdown: the section of docs/benchmarks.md that `python -m bench --report` writes."""

from collections.abc import Mapping, Sequence
from typing import Final

from bench.grid import CHEETAH, CRYPTEN, ENGINES, MASKED, PLAINTEXT, SEMI2K, STOCK
from bench.parties import Row
from bench.ratios import numbers_to_show
from bench.results import ENOUGH, FEW, Cell, Place, Results
from bench.shaping_proxy import CONDITIONS, LOOPBACK
from bench.workload import NETWORKS
from protocols.errors import ConfigurationError

LABELS: Final[Mapping[str, str]] = {
    MASKED: "Darkroom, masked (TLS, dealer)",
    CRYPTEN: "Darkroom, CrypTen (TLS, dealer)",
    STOCK: "stock CrypTen (TFP, gloo)",
    SEMI2K: "SPU SEMI2K (TFP, brpc)",
    CHEETAH: "SPU CHEETAH (brpc)",
    PLAINTEXT: "plaintext PyTorch, one thread",
}
MEBIBYTE: Final = 1 << 20
INSIDE: Final = "inside online"
BEGIN: Final = "<!-- written by `python -m bench --report`: begin -->"
END: Final = "<!-- written by `python -m bench --report`: end -->"
HEADER: Final = (
    "size",
    "engine",
    "online s",
    "offline s",
    "whole s",
    "sent per server online MiB",
    "offline MiB (dealt to B)",
    "rounds",
    "peak per server MiB",
    "largest error",
    "runs",
)


def line_name(line: str) -> str:
    """A network condition in words."""
    return "Loopback" if line == LOOPBACK else f"{line.upper()}: {CONDITIONS[line].text}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def section(results: Results, figures: Mapping[tuple[str, str], str]) -> str:
    """Everything that the last run tells. figures: an image's address by (network, line)."""
    parts = [_about(results)]
    ratios = [[ratio.about, ratio.asked, ratio.measured, ratio.verdict] for ratio in numbers_to_show(results)]
    parts += ["### Asked and measured, over loopback", table(["what", "asked", "measured", ""], ratios)]
    for network in dict.fromkeys(place.network for place in sorted(results.cells)):
        for line in (LOOPBACK, *CONDITIONS):
            cells = {
                place: cell
                for place, cell in results.cells.items()
                if (place.network, place.line) == (network, line) and (cell.rows or cell.stopped)
            }
            if cells:
                parts.append(f"### {NETWORKS.get(network, network)}. {line_name(line)}")
                if (network, line) in figures:
                    parts.append(f"![Seconds by engine and size]({figures[network, line]})")
                parts.append(table(HEADER, rows_of(cells, results.origins)))
    return "\n\n".join(parts)


def rows_of(cells: Mapping[Place, Cell], origins: Sequence[str]) -> list[list[str]]:
    """The rows of one network and line: by size, then by engine. origins: all of the results, numbered where they are several."""
    ordered = sorted(cells, key=lambda place: (place.side, ENGINES.index(place.engine)))
    return [_row(place, cells[place], origins) for place in ordered]


def _row(place: Place, cell: Cell, origins: Sequence[str]) -> list[str]:
    row = cell.medians
    start = [f"{place.side}", LABELS[place.engine]]
    if not row:
        return [*start, *["-"] * (len(HEADER) - 3), cell.stopped]
    flagged = sum(each.get("flags", 0) > 0 for each in cell.rows)
    notes = [f"{flagged} of them repeated, flagged"] if flagged else []
    if cell.stopped:
        notes.append(cell.stopped)
    if len(origins) > 1:
        notes.append(", ".join(f"[{number}]" for number, origin in enumerate(origins, start=1) if origin in cell.origins))
    runs = "; ".join([f"{len(cell.rows)}{FEW if len(cell.rows) < ENOUGH else ''}", *notes])
    return [
        *start,
        seconds(row["online_seconds"]),
        _offline(place.engine, row),
        seconds(row["whole_seconds"]),
        _mebibytes(row, "sent_bytes"),
        _mebibytes(row, "dealt_bytes") if "dealt_bytes" in row else "-" if place.engine == PLAINTEXT else INSIDE,
        f"{row['rounds']:.0f}" if "rounds" in row else "-",
        _mebibytes(row, "peak_rss_bytes", 0),
        f"{row['max_abs_diff']:.1e}",
        runs,
    ]


def seconds(value: float) -> str:
    """Three figures, or whole seconds."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _offline(engine: str, row: Row) -> str:
    if engine == PLAINTEXT:
        return "-"
    if "offline_seconds" in row:
        return seconds(row["offline_seconds"])
    return f"{INSIDE}: {seconds(row['dealing_seconds'])}" if "dealing_seconds" in row else INSIDE


def _mebibytes(row: Row, name: str, digits: int = 1) -> str:
    return f"{row[name] / MEBIBYTE:.{digits}f}" if name in row else "-"


def _about(results: Results) -> str:
    about = results.about
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    sums = ", ".join(
        f"{NETWORKS.get(name, name)}: {entry['layers']} layers, {entry['parameters']:,} parameters"
        for name, entry in results.networks.items()
    )
    return (
        f"{_dates(results.origins)}; {about.get('cores', '?')} cores ({about.get('processor', '?')}). {versions}. "
        f"{_medians(results)}; errors and peaks are the highest seen. {sums}."
    )


def _dates(origins: Sequence[str]) -> str:
    """When the rows were measured, at which commits; numbered where the tables refer to them."""
    if len(origins) < 2:
        return "".join(origins) or "Nothing measured"
    return ", ".join(f"[{number}] {origin}" for number, origin in enumerate(origins, start=1))


def _medians(results: Results) -> str:
    """Of how many runs they are, as the rows say."""
    counts = sorted({len(cell.rows) for cell in results.cells.values() if cell.rows})
    if not counts:
        return "No medians"
    few = f" ({FEW.strip()}: of fewer than {ENOUGH})" if counts[0] < ENOUGH else ""
    return f"Medians of {counts[0]}{few}" if len(counts) == 1 else f"Medians of {counts[0]} to {counts[-1]}{few}"


def write_section(page_text: str, text: str) -> str:
    """The page with `text` between the marks. Raises ConfigurationError: a mark is missing."""
    before, begin, rest = page_text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigurationError(f"the page has lost the marks {BEGIN!r} and {END!r}, between which the last results stand")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
