"""Which engine is measured where, and the measuring: engines in turn, one evaluation each, so that a noisy minute hits all."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final, Protocol

import psutil

from bench.ours import Plaintext, Site, SiteEngine
from bench.parties import EngineError, Row, TooSlowError
from bench.results import Cell, Place, Results
from bench.shaping_proxy import CONDITIONS, LOOPBACK, ShapingProxy
from bench.spu_peer import PROTOCOLS, Spu
from bench.stock_crypten import StockCrypTen
from bench.workload import identity, network_file, prepare
from client.model_file import load_model
from protocols.ring import WORD_BYTES
from protocols.tiles import TILE_WORDS

MASKED: Final = "masked"
CRYPTEN: Final = "crypten"
STOCK: Final = "stock"
SEMI2K: Final = "spu-semi2k"
CHEETAH: Final = "spu-cheetah"
PLAINTEXT: Final = "plaintext"
ENGINES: Final = (MASKED, CRYPTEN, STOCK, SEMI2K, CHEETAH, PLAINTEXT)
SMALL_SIDES: Final = (32, 64)  # CHEETAH takes minutes at 128; beside it, what needs no patience is measured at these sizes too
BESIDE: Final = (MASKED, PLAINTEXT)
LIMIT_SECONDS: Final = 600.0
WARM_UP_SECONDS: Final = 30.0  # a first evaluation that took longer counts: nothing in it was cold for long
# Seconds grow at least by so much of what the pixels do: what would be over the limit even so is not waited for.
GROWTH: Final = 0.8
START_BYTES: Final = 400 << 20  # of a process with torch or SPU in it, whatever the image
MEMORY_SHARE: Final = 0.9  # of what is free, which two servers and a dealer on one machine may come to need

Tell = Callable[[str], None]


class Engine(Protocol):
    """What is measured, once it runs."""

    def evaluate(self) -> Row:
        """One evaluation. Raises EngineError."""

    def close(self) -> None:
        """Stop it. May be called twice."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for. shaped_sides: with a line other than loopback. files: model files by network, in place of the usual."""

    networks: Sequence[str]
    engines: Sequence[str]
    sides: Sequence[int]
    shaped_sides: Sequence[int]
    lines: Sequence[str]
    repetitions: int
    limit: float = LIMIT_SECONDS
    memory_bytes: float | None = None  # what two servers and a dealer may need; None: MEMORY_SHARE of what is free
    files: Mapping[str, Path] = field(default_factory=dict)


def places(wanted: Wanted) -> dict[tuple[str, str, int], list[str]]:
    """Engines by network, line and side; sides ascend, since what is too slow at one is not tried at the next."""
    out: dict[tuple[str, str, int], list[str]] = {}
    for network in wanted.networks:
        for line in wanted.lines:
            asked = set(wanted.sides if line == LOOPBACK else wanted.shaped_sides)
            small = {side for side in SMALL_SIDES if CHEETAH in wanted.engines and side < min(asked, default=0)}
            for side in sorted(asked | small):
                chosen = [engine for engine in wanted.engines if side in asked or engine == CHEETAH or engine in BESIDE]
                # Plaintext knows no line: its figures on loopback serve for all.
                chosen = [engine for engine in chosen if engine != PLAINTEXT or line == LOOPBACK]
                out[network, line, side] = chosen
    return out


def ruled_out(results: Results, place: Place, limit: float, memory_bytes: float) -> str:
    """Why a cell is not tried, as the next smaller size shows; "" where it is. memory_bytes: what all parties may need."""
    smaller = [
        (other.side, cell)
        for other, cell in results.cells.items()
        if (other.network, other.line, other.engine) == (place.network, place.line, place.engine) and other.side < place.side
    ]
    if not smaller:
        return ""
    side, cell = max(smaller, key=lambda one: one[0])
    if cell.stopped and not cell.failed:
        return f"not tried: given up at {side}x{side}"
    if not cell.rows:
        return ""
    row, growth = cell.medians, (place.side / side) ** 2
    if row["whole_seconds"] * GROWTH * growth > limit:
        return f"not tried: over {limit:.0f} s, going by {side}x{side}"
    peaks = (row.get("peak_rss_bytes", 0), row.get("peak_rss_bytes", 0), row.get("dealer_peak_rss_bytes", 0))
    if place.engine == MASKED:  # beyond a limit it cuts the image into tiles, of which two take what one image of the limit does
        growth = min(growth, max(1.0, TILE_WORDS * WORD_BYTES / row.get("sent_bytes", 1)))
    needed = sum(max(0.0, peak - START_BYTES) * growth + START_BYTES for peak in peaks if peak)
    if needed > memory_bytes:
        return f"not tried: {needed / 1e9:.0f} GB for both servers here, going by {side}x{side}"
    return ""


def measure(wanted: Wanted, results: Results, origin: str, keep: Callable[[], None], tell: Tell) -> None:
    """Fill every cell that is not complete. origin: today's date and commit, of new rows. keep: is called after each change.

    Raises DarkroomError: what no engine is to blame for.
    """
    results.forget_failures()
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as name:
        folder = Path(name)
        files = {network: network_file(network, wanted.files, folder) for network in wanted.networks}
        for network, file in files.items():
            results.check_network(network, identity(load_model(file)))
        for number, ((network, line, side), engines) in enumerate(places(wanted).items()):
            todo = []
            for engine in engines:
                place = Place(network, line, side, engine)
                cell = results.cell(place)
                if not cell.rows and not cell.stopped:
                    memory = wanted.memory_bytes or MEMORY_SHARE * psutil.virtual_memory().available
                    cell.stopped = ruled_out(results, place, wanted.limit, memory)
                if not cell.complete(wanted.repetitions):
                    todo.append(engine)
            keep()
            if todo:
                tell(f"{network}, {side}x{side}, {line}: {', '.join(todo)}")
                with contextlib.ExitStack() as stack:
                    stage = _Stage(stack, files[network], side, line, folder / str(number), wanted.limit)
                    cells = {engine: results.cell(Place(network, line, side, engine)) for engine in todo}
                    in_turn(cells, stage.engine, wanted, origin, keep, tell)


def in_turn(
    cells: Mapping[str, Cell],
    start: Callable[[str], Engine],
    wanted: Wanted,
    origin: str,
    keep: Callable[[], None],
    tell: Tell,
) -> None:
    """One evaluation of each engine, again and again, until all cells are complete."""
    running: dict[str, Engine] = {}
    while waiting := [engine for engine, cell in cells.items() if not cell.complete(wanted.repetitions)]:
        for engine in waiting:
            cell = cells[engine]
            begun = perf_counter()
            cold = engine not in running
            try:
                if cold:
                    running[engine] = start(engine)
                row = running[engine].evaluate()
            except TooSlowError:
                cell.stopped = f"over {wanted.limit:.0f} s"
            except EngineError as error:
                cell.stopped, cell.failed = f"failed: {error}", True
            else:
                slow = row["whole_seconds"] > wanted.limit
                if slow:
                    cell.stopped = f"over {wanted.limit:.0f} s"
                # One evaluation past the limit is a figure all the same, and better than none.
                counted = not cold or slow or row["whole_seconds"] > WARM_UP_SECONDS
                if counted:
                    cell.add(row, origin)
                count = f"{len(cell.rows)}/{wanted.repetitions}" if counted else "warm-up"
                tell(f"  {engine} {count}: online {row['online_seconds']:.3f} s, whole {row['whole_seconds']:.3f} s")
            if cell.stopped:
                tell(f"  {engine}: {cell.stopped} ({perf_counter() - begun:.0f} s)")
                if engine in running:
                    running[engine].close()  # it may still be computing, and would disturb the others
            keep()


class _Stage:
    """The engines of one network, size and line; each is started when it is first needed, all are stopped with the stack."""

    def __init__(self, stack: contextlib.ExitStack, model_file: Path, side: int, line: str, folder: Path, limit: float) -> None:
        self._stack, self._limit = stack, limit
        self._work = prepare(model_file, side, folder)
        self._proxy: ShapingProxy | None = None
        self._site: Site | None = None
        if line != LOOPBACK:
            self._proxy = ShapingProxy(CONDITIONS[line])
            stack.callback(self._proxy.close)

    def engine(self, name: str) -> Engine:
        """Raises EngineError: it does not start."""
        started: Engine
        if name in (MASKED, CRYPTEN):
            if self._site is None:
                self._site = Site(self._work, self._proxy, self._limit, lambda _: None)
                self._stack.callback(self._site.close)
            return SiteEngine(self._site, name)
        if name == PLAINTEXT:
            return Plaintext(self._work)
        if name == STOCK:
            started = StockCrypTen(self._work, self._proxy, self._limit)
        else:
            started = Spu(PROTOCOLS[name], self._work, self._proxy, self._limit)
        self._stack.callback(started.close)
        return started
