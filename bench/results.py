"""What was measured so far, kept in one JSON file as it comes, so that a run can be stopped and continued.

A cell is one engine on one network, size and line. Its rows are evaluations. It is complete with as many rows as are asked for,
or with a reason why there are no more. All rows are of one machine with the same versions; each cell knows the dates and commits
of its rows, since a run may go on days later.
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

FORMAT: Final = 2
ENOUGH: Final = 5  # counted runs: a median of fewer is marked
FEW: Final = " †"  # the mark


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
    """Some evaluations. stopped: why there are no more; "" where nothing is in the way. failed: it may go better next time.

    origins: how many rows, in their order, are of which date and commit.
    """

    rows: list[Row] = field(default_factory=list)
    stopped: str = ""
    failed: bool = False
    origins: dict[str, int] = field(default_factory=dict)

    def add(self, row: Row, origin: str) -> None:
        """One more evaluation, measured at this date and commit."""
        self.rows.append(row)
        self.origins[origin] = self.origins.get(origin, 0) + 1

    def complete(self, repetitions: int) -> bool:
        return len(self.rows) >= repetitions or bool(self.stopped)

    @property
    def medians(self) -> Row:
        """The median of each figure, which is not the figures of the median run. Errors and peaks: the highest.

        runs: how many evaluations they are of.
        """
        if not self.rows:
            return {}
        highest = {"max_abs_diff", "peak_rss_bytes", "dealer_peak_rss_bytes"}
        columns = {name: [row[name] for row in self.rows] for name in self.rows[0]}
        figures = {name: (max if name in highest else statistics.median)(column) for name, column in columns.items()}
        return figures | {"runs": len(self.rows)}


@dataclass
class Results:
    """All cells, and the machine and versions that they were measured on."""

    about: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    cells: dict[Place, Cell] = field(default_factory=dict)

    def cell(self, place: Place) -> Cell:
        return self.cells.setdefault(place, Cell())

    def medians(self, network: str, engine: str, side: int, line: str) -> Row | None:
        """None where nothing was measured."""
        cell = self.cells.get(Place(network, line, side, engine))
        return cell.medians if cell is not None and cell.rows else None

    def check_machine(self, machine: Mapping[str, Any]) -> None:
        """Figures of two machines, or of two versions of anything, do not belong in one table. Raises BadInputError.

        A version that only one of both states is that of a peer that was added, or is not asked for today.
        """
        before, now = _flat(self.about), _flat(machine)
        both = [name for name in before if name in now]
        changed = ", ".join(f"{name} was {before[name]} and is {now[name]}" for name in both if before[name] != now[name])
        if changed:
            raise BadInputError(f"the results are of another set-up: {changed}; start again with --fresh, or name another --json")
        self.about = {**machine, "versions": {**self.about.get("versions", {}), **machine["versions"]}}

    @property
    def origins(self) -> list[str]:
        """Every date and commit of which there is a row, the oldest first."""
        return sorted({origin for cell in self.cells.values() for origin in cell.origins})

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


def _flat(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Versions and the rest on one level."""
    rest = {name: value for name, value in machine.items() if name != "versions"}
    return rest | dict(machine.get("versions", {}))


def load(path: Path) -> Results:
    """Read a file of results; an empty one where there is none. Raises BadInputError."""
    if not path.exists():
        return Results()
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise BadInputError(f"{path} is of format {content['format']}, not {FORMAT}; start again with --fresh")
        cells = {Place.parse(text): Cell(**cell) for text, cell in content["cells"].items()}
        for place, cell in cells.items():
            if sum(cell.origins.values()) != len(cell.rows):
                raise BadInputError(f"{path} does not say when each row of {place} was measured; start again with --fresh")
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
