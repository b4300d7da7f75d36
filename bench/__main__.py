"""`python -m bench`: Darkroom beside its peers, the same networks and images, in turn, in one run.

Results are kept as they come: a run that is stopped goes on where it was. How it is measured: docs/benchmarks.md.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from bench import results as kept
from bench import spu_peer
from bench.figures import write_figures
from bench.grid import CHEETAH, ENGINES, LIMIT_SECONDS, SEMI2K, Wanted, measure
from bench.origin import machine, today
from bench.shaping_proxy import CONDITIONS, LOOPBACK
from bench.tables import section, write_section
from bench.workload import NETWORKS
from client.files import replacing
from protocols.errors import DarkroomError

JSON: Final = Path("bench-results/results.json")
PAGE: Final = Path("docs/benchmarks.md")
LINES: Final = (LOOPBACK, *CONDITIONS)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--networks", type=_words(NETWORKS), default=list(NETWORKS), help="comma-separated: base, dncnn")
    parser.add_argument("--engines", type=_words(ENGINES), default=list(ENGINES), help=f"comma-separated: {', '.join(ENGINES)}")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512], help="sides of the square images")
    parser.add_argument("--shaped-sizes", type=int, nargs="+", default=[128], help="for LAN and WAN (default: 128 alone)")
    parser.add_argument("--lines", type=_words(LINES), default=list(LINES), help=f"comma-separated: {', '.join(LINES)}")
    parser.add_argument("--repetitions", type=int, default=5, help="counted evaluations of each; a warm-up goes before")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds after which a larger size is not tried")
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="what all parties may need; a size that goes beyond, by the last one, is not tried",
    )
    parser.add_argument("--model", type=Path, help="the file of `base`, in place of the shipped one")
    parser.add_argument("--dncnn", type=Path, help="the file of a trained DnCNN, in place of seeded weights")
    parser.add_argument(
        "--json", type=Path, default=JSON, help="where results are kept, and continued from (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="start again")
    parser.add_argument("--markdown", type=Path, help="write the tables here as well")
    parser.add_argument("--report", type=Path, metavar="FILE", help=f"measure nothing: write {PAGE} and its figures from results")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Entry point. The exit code is 1 where an engine failed (not where it was too slow), 2 where nothing could be measured."""
    asked = parsed(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if asked.report is not None:
            report(kept.load(asked.report), PAGE)
            return 0
        results = run(asked)
    except DarkroomError as error:
        tell(f"bench: {error}")
        return 2
    except KeyboardInterrupt:
        tell("interrupted; what was measured is kept, and the same command goes on from there")
        return 130
    return 1 if any(cell.failed for cell in results.cells.values()) else 0


def run(asked: argparse.Namespace) -> kept.Results:
    """Measure what is missing, and print the tables. Raises DarkroomError."""
    if asked.fresh:
        asked.json.unlink(missing_ok=True)
    results = kept.load(asked.json)
    here = machine()
    results.check_machine(here)
    engines = list(asked.engines)
    if not here["versions"].get("spu") and {SEMI2K, CHEETAH} & set(engines):
        tell(f"SPU is left out: {spu_peer.PYTHON} is missing; `make bench` makes it")
        engines = [engine for engine in engines if engine not in (SEMI2K, CHEETAH)]
    files = {name: path for name, path in (("base", asked.model), ("dncnn", asked.dncnn)) if path is not None}
    wanted = Wanted(
        networks=asked.networks,
        engines=engines,
        sides=asked.sizes,
        shaped_sides=asked.shaped_sizes,
        lines=asked.lines,
        repetitions=asked.repetitions,
        limit=asked.limit,
        memory_bytes=asked.memory * 1e9 if asked.memory else None,
        files=files,
    )
    measure(wanted, results, today(), partial(kept.save, asked.json, results), tell)
    text = section(results, {})
    print(text)
    if asked.markdown is not None:
        asked.markdown.write_text(text + "\n")
    return results


def report(results: kept.Results, page: Path) -> None:
    """Write the section of the page, and its figures. Raises DarkroomError."""
    figures = write_figures(results, page.parent / "benchmarks", page.parent)
    text = write_section(page.read_text(), section(results, figures))
    with replacing(page) as file:
        file.write(text.encode())
    tell(f"{page} and {len(figures)} figures written")


def tell(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def _words(known: Iterable[str]) -> Callable[[str], list[str]]:
    def words(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown; known are {', '.join(known)}")
        return names

    return words


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
