"""The report that a reviewer reads: verdict, table of claims, one section per evaluation, limits. Markdown, HTML and JSON.

Everything variable (results, versions, date) is passed in, so that one report always renders the same. The HTML is made from
the Markdown (CommonMark with tables, raw HTML switched off), holds its style and no scripts, and names pictures relative to
itself. markdown-it-py comes with rich, sympy (`security.edge_dealer`) with torch: the report needs no package of its own.
"""

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from markdown_it import MarkdownIt

from client.files import replacing
from protocols.engines import CRYPTEN, MASKED
from security.evaluation import Check, Evaluation, Outcome

MARKDOWN: Final = "report.md"
HTML: Final = "report.html"
JSON: Final = "report.json"

LIMITS: Final = """\
- Darkroom is secure **if** the two servers do not collude, follow the protocol (semi-honest), and the dealer colludes with
  neither: see [the threat model](../threat-model.md). Nothing here widens that.
- A test that finds nothing proves nothing. The argument for secrecy is the one-time mask, expanded by AES-256 from fresh keys
  and used once; the tests look for places where the program does not do what the argument says. The broken twins show that
  they would see the faults that they were built for, not every fault.
- All parties ran on one machine, over loopback, on one version of everything. Time as a side channel, power, memory after a
  crash and the operating system were not examined; nor were denial of service and extraction of a model by many queries.
{engine}
- Error rates are for an honest system, for one run of one check. They rest on the laws that each check names; where a law was
  sampled or holds for large samples only, the check says so.
- Written and run by the project itself: this is no audit by others."""

ENGINE_LIMITS: Final[Mapping[str, str]] = {
    MASKED: """\
- What is evaluated is the masked engine, the default, on a network with a ReLU. Beyond the bounds that a model
  states for its wires its truncation is wrong without a word; within them it is exact or flagged. Edge and dealer
  are shown on both engines; `python -m security --engine crypten` evaluates everything else of the CrypTen engine.""",
    CRYPTEN: """\
- What is evaluated is the CrypTen engine (`--engine crypten`): its local truncation fails silently with a small probability,
  and its last-place carries are part of the result.""",
}

INTRODUCTION: Final = """\
Each claim is tested on Darkroom, and then on a *broken twin* that has lost the property. A check passes only if Darkroom keeps
the property **and** the twin is caught. What is not covered stands at the end."""

STYLE: Final = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; font-size: 0.9rem; }
th, td { border: 1px solid #ccc; padding: 0.35rem 0.6rem; text-align: left; vertical-align: top; }
th { background: #f2f2f2; }
img { max-width: 100%; border: 1px solid #ccc; }
code { background: #f4f4f4; padding: 0 0.2em; }"""


@dataclass(frozen=True)
class Section:
    """One evaluation that was run, or what stopped it."""

    name: str
    seconds: float
    evaluation: Evaluation | None
    failure: str = ""

    @property
    def passed(self) -> bool:
        """It came to its end, and has checks, and all of them passed: an evaluation that checks nothing shows nothing."""
        return self.evaluation is not None and bool(self.evaluation.checks) and self.evaluation.passed


@dataclass(frozen=True)
class Report:
    """Everything that a page says."""

    sections: Sequence[Section]
    planned: Sequence[str]  # what this run was asked for
    known: Sequence[str]  # all evaluations there are
    versions: Mapping[str, str]
    date: str
    quick: bool
    folder: Path = field(repr=False)  # where the page stands; pictures are named relative to it
    engine: str = MASKED  # what the servers ran

    @property
    def checks(self) -> list[tuple[Section, Check]]:
        """All checks, with their sections."""
        return [(section, check) for section in self.sections if section.evaluation for check in section.evaluation.checks]

    @property
    def unfinished(self) -> list[str]:
        """What was asked for and did not come to its end."""
        done = {section.name for section in self.sections if section.evaluation is not None}
        return [name for name in self.planned if name not in done]

    @property
    def passed(self) -> bool:
        """Everything asked for was run, every check held, and failed on its twin."""
        return bool(self.planned) and not self.unfinished and all(section.passed for section in self.sections)


def write_report(report: Report) -> dict[str, Path]:
    """Write page and JSON into the report's folder. Raises ConfigurationError: the disk is full or the folder closed."""
    text = to_markdown(report)
    written = {}
    for name, content in (
        (MARKDOWN, text),
        (HTML, to_html(text)),
        (JSON, json.dumps(to_json(report), indent=1, allow_nan=False) + "\n"),
    ):
        with replacing(report.folder / name) as file:
            file.write(content.encode())
        written[name] = report.folder / name
    return written


# --- Markdown ---


def verdict(report: Report) -> str:
    """One line: what came out."""
    checks = report.checks
    failed = [check for _, check in checks if not check.passed]
    if report.passed:
        out = f"passed. All {len(checks)} checks hold on Darkroom, and each fails on its broken twin."
    else:
        out = f"NOT passed. {len(failed)} of {len(checks)} checks failed."
        if report.unfinished:
            out += f" Not finished: {', '.join(report.unfinished)}."
        empty = [section.name for section in report.sections if section.evaluation and not section.evaluation.checks]
        if empty:
            out += f" Without any check: {', '.join(empty)}."
    left_out = [name for name in report.known if name not in report.planned]
    return out + (f" Partial run, without {', '.join(left_out)}." if left_out else "")


def to_markdown(report: Report) -> str:
    """The page."""
    options = ["--quick"] * report.quick + [f"--engine {report.engine}"] * (report.engine != MASKED)
    command = " ".join(["python -m security", *options])
    parts = [
        "# Security evaluation",
        f"**Verdict: {verdict(report)}**",
        _failures(report),
        f"{report.date}. {'Quick' if report.quick else 'Full'} form: `{command}`. Engine: {report.engine}. "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items())
        + ".",
        INTRODUCTION,
        "## Claims",
        _claims(report),
        *(_section(report, section) for section in report.sections),
        "## What this does not show",
        LIMITS.format(engine=ENGINE_LIMITS[report.engine]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _failures(report: Report) -> str:
    lines = [
        f"- {check.claim}: {'the twin was not caught, so it shows nothing' if check.ours.holds else 'does not hold on Darkroom'}"
        for _, check in report.checks
        if not check.passed
    ]
    return "\n".join(lines + [f"- {section.name}: {section.failure}" for section in report.sections if section.failure])


def _claims(report: Report) -> str:
    head = ["claim", "rests on", "command", "on Darkroom", "twin", "on the twin", "wrong on an honest system", "verdict"]
    rows = [
        [
            check.claim,
            check.assumption,
            f"`python -m security --only {section.name}`",
            _outcome(check.ours),
            check.twin,
            _outcome(check.broken),
            check.error_rate,
            "passed" if check.passed else "**FAILED**",
        ]
        for section, check in report.checks
    ]
    return table(head, rows) if rows else "No check was run."


def _outcome(outcome: Outcome) -> str:
    return f"{'holds' if outcome.holds else 'broken'}: {outcome.measured}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; line breaks and bars inside a cell do not break it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _section(report: Report, section: Section) -> str:
    evaluation = section.evaluation
    if evaluation is None:
        return f"## {section.name}\n\nDid not come to its end: {section.failure or 'it was stopped'}."
    state = "passed" if section.passed else "**NOT passed**"
    parts = [f"## {evaluation.title}", f"*{evaluation.question}*", f"{state}, {section.seconds:.0f} s.", evaluation.text.strip()]
    for picture in evaluation.pictures:
        caption = " ".join(picture.caption.split()).replace("[", "(").replace("]", ")")
        parts += [f"![{caption}]({_relative(report, picture.path)})", f"*{caption}*"]
    return "\n\n".join(part for part in parts if part)


def _relative(report: Report, path: Path) -> str:
    return Path(os.path.relpath(path, report.folder)).as_posix()


# --- HTML and JSON ---


def to_html(markdown: str) -> str:
    """One file without scripts; raw HTML in a result is shown as text."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    title = html.escape(markdown.splitlines()[0].lstrip("# "))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def to_json(report: Report) -> dict[str, Any]:
    """The same for machines."""
    return {
        "passed": report.passed,
        "verdict": verdict(report),
        "date": report.date,
        "quick": report.quick,
        "engine": report.engine,
        "versions": dict(report.versions),
        "planned": list(report.planned),
        "evaluations": [_section_json(report, section) for section in report.sections],
    }


def _section_json(report: Report, section: Section) -> dict[str, Any]:
    out: dict[str, Any] = {"name": section.name, "passed": section.passed, "seconds": round(section.seconds, 1)}
    if section.evaluation is None:
        return {**out, "failure": section.failure}
    evaluation = section.evaluation
    return {
        **out,
        "title": evaluation.title,
        "question": evaluation.question,
        "checks": [
            {
                "claim": check.claim,
                "assumption": check.assumption,
                "passed": check.passed,
                "ours": _outcome_json(check.ours),
                "twin": check.twin,
                "broken": _outcome_json(check.broken),
                "error_rate": check.error_rate,
            }
            for check in evaluation.checks
        ],
        "text": evaluation.text,
        "pictures": [{"path": _relative(report, picture.path), "caption": picture.caption} for picture in evaluation.pictures],
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    """JSON has no infinity: such a figure becomes null."""
    figures = {name: float(value) if math.isfinite(value) else None for name, value in outcome.figures.items()}
    return {"holds": bool(outcome.holds), "measured": outcome.measured, "figures": figures}
