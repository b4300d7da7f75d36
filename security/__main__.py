"""`python -m security`: run the evaluations, write the report. Exit code 0 only if every check held and its twin was caught.

Writes report.md, report.html, report.json and pictures. A whole run in its full form goes into docs/security-report, and its
results into docs/threat-model.md; any other goes into security-report/ and says what it is. Progress goes to stderr, the verdict
to stdout. The exit code is about what was run.
"""

import argparse
import importlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Final, cast

import torch

from darkroom import __version__
from darkroom.simulation import shipped_models
from protocols.engines import ENGINES, MASKED
from protocols.errors import DarkroomError
from security.evaluation import Evaluation, Setting, Tell
from security.page import Report, Section, to_json, verdict, write_report
from security.threat_model import PAGE, write_results

EVALUATIONS: Final = ("attack_stock", "views", "replay", "collusion", "deviation", "metrics", "leaks")
FOLDER: Final = Path("docs/security-report")  # of whole runs alone
PARTIAL_FOLDER: Final = Path("security-report")

Evaluate = Callable[[Setting], Evaluation]


def load(name: str) -> Evaluate:
    """The evaluation of one module; imported only when it is run, as some are slow to import."""
    return cast(Evaluate, importlib.import_module(f"security.{name}").evaluate)


def run_one(name: str, evaluate: Evaluate, setting: Setting) -> Section:
    """One evaluation. What it raises on purpose becomes a failed section, so that the others still run; a bug does not."""
    started = monotonic()
    try:
        evaluation = evaluate(setting)
    except (DarkroomError, OSError) as error:
        setting.tell(f"did not come to its end: {error}")
        return Section(name, monotonic() - started, None, f"{type(error).__name__}: {error}")
    return Section(name, monotonic() - started, evaluation)


def run_all(
    names: Sequence[str],
    *,
    quick: bool,
    folder: Path,
    date: str,
    tell: Tell,
    find: Callable[[str], Evaluate] = load,
    engine: str = MASKED,
) -> Report:
    """Run evaluations in order; the report is written after each, so that what was found is not lost with a later one."""
    folder.mkdir(parents=True, exist_ok=True)
    sections: list[Section] = []
    report = Report(sections, names, EVALUATIONS, versions(), date, quick, folder, engine)
    started = monotonic()
    for name in names:

        def step(line: str, name: str = name) -> None:
            tell(f"[{monotonic() - started:6.1f} s] {name}: {line}")

        step("starts")
        sections.append(run_one(name, find(name), Setting(quick, folder, step, engine)))
        step("passed" if sections[-1].passed else "NOT PASSED")
        write_report(report)
    return report


def versions() -> dict[str, str]:
    """What it ran on. No name or path of the machine."""
    out = {"darkroom": f"{__version__} (commit {commit()})", "python": platform.python_version(), "torch": torch.__version__}
    for package in ("crypten", "numpy", "scikit-image", "bm3d"):
        try:
            out[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            out[package] = "not installed"
    return out | {f"model {path.stem}": f"sha256 {sha256(path.read_bytes()).hexdigest()[:12]}" for path in shipped_models()}


def commit() -> str:
    """The commit of this clone, and whether files beside the report differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    here = Path(__file__).parent.parent

    def ask(*words: str) -> str | None:
        answer = subprocess.run([git, "-C", str(here), *words], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    head = ask("rev-parse", "--short=12", "HEAD")
    changed = ask("status", "--porcelain", "--", ".", f":!{FOLDER.as_posix()}", f":!{PAGE.as_posix()}")
    return f"{head}{' with local changes' if changed else ''}" if head else "unknown"


def main(arguments: Sequence[str] | None = None, find: Callable[[str], Evaluate] = load) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m security", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="smaller samples: under 10 minutes in all")
    parser.add_argument("--only", nargs="+", choices=EVALUATIONS, default=list(EVALUATIONS), metavar="NAME", help="some of them")
    parser.add_argument("--out", type=Path, help=f"folder of the report (default: {FOLDER}, of a partial run {PARTIAL_FOLDER})")
    parser.add_argument("--json", metavar="F", help="write report.json also here; - is stdout")
    parser.add_argument("--date", default=f"{datetime.now(UTC):%Y-%m-%d}", help="the date that the report bears (default: today)")
    parser.add_argument("--engine", choices=ENGINES, default=MASKED, help=f"what the servers run (default: {MASKED})")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = [name for name in EVALUATIONS if name in options.only]
    whole = len(names) == len(EVALUATIONS) and not options.quick and options.engine == MASKED
    folder = options.out or (FOLDER if whole else PARTIAL_FOLDER)
    where = {"folder": folder, "date": options.date, "engine": options.engine}
    report = run_all(names, quick=options.quick, tell=_tell, find=find, **where)
    if whole and folder == FOLDER and not report.unfinished:
        write_results(PAGE, report)
    content = json.dumps(to_json(report), indent=1, allow_nan=False) + "\n"
    if options.json == "-":
        sys.stdout.write(content)
    else:
        if options.json:
            Path(options.json).write_text(content)
        print(f"Security evaluation: {verdict(report)}")
    return 0 if report.passed else 1


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
