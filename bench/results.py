"""What was measured so far, kept in one JSON file as it comes, so that a run can be stopped and continued.

A cell is one engine on one network, size and line. Its rows are evaluations. It is complete with as many rows as are asked for,
or with a reason why there are no more.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.parties import Row
from client.files import replacing
from protocols.errors import BadInputError

FORMAT: Final = 1


@dataclass(frozen=True, order=True)
class Place:
    """Where a cell stands."""

    network: str
    line: str
    side: int
    engine: str

    def __str__(self) -> str:
        return "|".join((self.network, self.line, str(self.side), self.engine))

    @classmethod
    def parse(cls, text: str) -> "Place":
        network, line, side, engine = text.split("|")
        return cls(network, line, int(side), engine)


@dataclass
class Cell:
    """Some evaluations. stopped: why there are no more; "" where nothing is in the way. failed: it may go better next time."""

    rows: list[Row] = field(default_factory=list)
    stopped: str = ""
    failed: bool = False

    def complete(self, repetitions: int) -> bool:
        return len(self.rows) >= repetitions or bool(self.stopped)

    @property
    def medians(self) -> Row:
        """The median of each figure, which is not the figures of the median run. Errors and peaks: the highest."""
        highest = {"max_abs_diff", "peak_rss_bytes", "dealer_peak_rss_bytes"}
        return {
            name: (max if name in highest else statistics.median)([row[name] for row in self.rows])
            for name in (self.rows[0] if self.rows else {})
        }


@dataclass
class Results:
    """All cells, and what they were measured on."""

    about: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    cells: dict[Place, Cell] = field(default_factory=dict)

    def cell(self, place: Place) -> Cell:
        return self.cells.setdefault(place, Cell())

    def medians(self, network: str, engine: str, side: int, line: str) -> Row | None:
        """None where nothing was measured."""
        cell = self.cells.get(Place(network, line, side, engine))
        return cell.medians if cell is not None and cell.rows else None

    def check_network(self, name: str, identity: Mapping[str, Any]) -> None:
        """Figures of two different networks do not belong in one table. Raises BadInputError."""
        before = self.networks.setdefault(name, dict(identity))
        if before != identity:
            raise BadInputError(
                f"the results are of another {name} than today's; start again with --fresh, or name another --json"
            )

    def forget_failures(self) -> None:
        """Try again what failed; what was too slow stays so."""
        for place in [place for place, cell in self.cells.items() if cell.failed]:
            del self.cells[place]


def load(path: Path) -> Results:
    """Read a file of results; an empty one where there is none. Raises BadInputError."""
    if not path.exists():
        return Results()
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise BadInputError(f"{path} is of format {content['format']}, not {FORMAT}; start again with --fresh")
        cells = {Place.parse(text): Cell(**cell) for text, cell in content["cells"].items()}
        return Results(content["about"], content["networks"], cells)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path} holds no results of a benchmark ({error}); start again with --fresh") from error


def save(path: Path, results: Results) -> None:
    """Write everything, whole or not at all."""
    content = {
        "format": FORMAT,
        "about": results.about,
        "networks": results.networks,
        "cells": {str(place): vars(cell) for place, cell in sorted(results.cells.items())},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
