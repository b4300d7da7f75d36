"""The threat model's table of measured claims: one row a check, with the result of the last full run. Between two marks."""

from pathlib import Path
from typing import Final

from client.files import replacing
from protocols.errors import ConfigurationError
from security.page import Report, table

PAGE: Final = Path("docs/threat-model.md")
BEGIN: Final = "<!-- written by `python -m security`: begin -->"
END: Final = "<!-- written by `python -m security`: end -->"


def write_results(page: Path, report: Report) -> None:
    """Replace what stands between the marks. Raises ConfigurationError: a mark is missing, or the page cannot be written."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigurationError(f"{page} has lost the marks {BEGIN!r} and {END!r}, between which the last results stand")
    with replacing(page) as file:
        file.write(f"{before}{BEGIN}\n\n{results(report)}\n\n{END}{after}".encode())


def results(report: Report) -> str:
    """Claim, assumption, command, last result."""
    form = "quick form" if report.quick else "full form"
    rows = [
        [
            check.claim,
            check.assumption,
            f"`python -m security --only {section.name}`",
            f"{'held' if check.ours.holds else '**did not hold**'}; twin ({check.twin})"
            f" {'**not caught**' if check.broken.holds else 'caught'}; {report.date}, {form}",
        ]
        for section, check in report.checks
    ]
    return table(["claim", "assumption", "command", "last result"], rows)
