"""Bars of seconds by engine and size, as SVG: a logarithmic axis, online dark, and what offline adds to it light."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from bench.grid import ENGINES
from bench.ratios import online, whole
from bench.results import Results
from bench.shaping_proxy import CONDITIONS, LOOPBACK
from bench.tables import LABELS, line_name, seconds
from bench.workload import NETWORKS
from client.files import replacing

COLOURS: Final[Mapping[str, str]] = dict(
    zip(ENGINES, ("#1f5fbf", "#5d8fc9", "#c43c2b", "#7a4bb0", "#a0700a", "#777777"), strict=True)
)
WIDTH: Final = 860
LEFT: Final = 250  # names
RIGHT: Final = 150  # figures
BAR: Final = 16
STEP: Final = 21
GAP: Final = 26  # before each size
TOP: Final = 56


@dataclass(frozen=True)
class Bar:
    """One engine at one size, in seconds."""

    engine: str
    online: float
    whole: float


def bars(results: Results, network: str, line: str) -> dict[int, list[Bar]]:
    """By size, in the order of engines; what was not measured has none."""
    out: dict[int, list[Bar]] = {}
    ordered = sorted(results.cells, key=lambda place: (place.side, ENGINES.index(place.engine)))
    for place in ordered:
        row = results.cells[place].medians
        if (place.network, place.line) == (network, line) and row:
            out.setdefault(place.side, []).append(Bar(place.engine, online(row), whole(row)))
    return out


def svg(title: str, groups: Mapping[int, Sequence[Bar]]) -> str:
    """The drawing. groups: not empty."""
    every = [bar for group in groups.values() for bar in group]
    low = math.floor(math.log10(min(bar.online for bar in every)))
    high = max(low + 1, math.ceil(math.log10(max(bar.whole for bar in every))))

    def place(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    height = TOP + sum(GAP + STEP * len(group) for group in groups.values()) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{escape(title)}</text>',
        '<text x="12" y="40" fill="#555">seconds, logarithmic; dark: online, light: plus offline</text>',
    ]
    for power in range(low, high + 1):
        x = place(10.0**power)
        out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{height - 26}" stroke="#ddd"/>')
        out.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle">{10.0**power:g}</text>')
    y = float(TOP)
    for side, group in groups.items():
        out.append(f'<text x="12" y="{y + 17:.1f}" font-weight="bold">{side}x{side}</text>')
        y += GAP
        for bar in group:
            colour, middle = COLOURS[bar.engine], y + BAR - 4
            out.append(f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{escape(LABELS[bar.engine])}</text>')
            for value, opacity in ((bar.whole, 0.4), (bar.online, 1.0)):
                width = max(1.0, place(value) - LEFT)
                out.append(
                    f'<rect x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" fill="{colour}" opacity="{opacity}"/>'
                )
            told = seconds(bar.online) + (f" + {seconds(bar.whole - bar.online)}" if bar.whole > bar.online else "")
            out.append(f'<text x="{place(bar.whole) + 6:.1f}" y="{middle:.1f}">{told} s</text>')
            y += STEP
    return "\n".join([*out, "</svg>", ""])


def write_figures(results: Results, folder: Path, relative_to: Path) -> dict[tuple[str, str], str]:
    """Draw one figure for each network and line that was measured; their addresses, relative to a page's folder."""
    written = {}
    for network in NETWORKS:
        for line in (LOOPBACK, *CONDITIONS):
            groups = bars(results, network, line)
            if groups:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{network}-{line}.svg"
                title = f"{NETWORKS[network].replace('`', '')}. {line_name(line)}"
                with replacing(path) as file:
                    file.write(svg(title, groups).encode())
                written[network, line] = path.relative_to(relative_to).as_posix()
    return written
