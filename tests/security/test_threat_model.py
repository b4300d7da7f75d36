"""The table of last results: between its marks and nowhere else."""

import pytest

from protocols.errors import ConfigurationError
from security.threat_model import BEGIN, END, PAGE, write_results
from tests.security.test_page import BLIND, GOOD, LEAKS, report


def test_results_replace_what_stands_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_results(page, report(tmp_path, GOOD, LEAKS, BLIND))
    text = page.read_text()
    assert (text.startswith("before\n"), text.endswith("\nafter\n"), "\nold\n" in text) == (True, True, False)
    good, leaks, blind = (line for line in text.splitlines() if line.startswith("|") and "python -m security" in line)
    assert "held; twin (the mask is dropped) caught; 2026-01-31, quick form" in good
    assert "**did not hold**" in leaks
    assert "**not caught**" in blind
    write_results(page, report(tmp_path, GOOD))
    assert page.read_text().count(BEGIN) == page.read_text().count(END) == 1


def test_a_page_without_marks_is_a_sentence_and_stays_as_it_is(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n")
    with pytest.raises(ConfigurationError, match="has lost the marks"):
        write_results(page, report(tmp_path, GOOD))
    assert page.read_text() == f"before\n{BEGIN}\n"


def test_the_threat_model_has_the_marks():
    assert PAGE.read_text().count(BEGIN) == PAGE.read_text().count(END) == 1
