"""The report: verdict first, the twins' results, nothing that breaks a table or a browser, and the exit code."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from protocols.engines import CRYPTEN
from protocols.errors import PeerUnavailableError
from security.__main__ import EVALUATIONS, main, run_one
from security.evaluation import Check, Evaluation, Outcome, Picture, Setting
from security.page import Report, Section, to_html, to_json, to_markdown, verdict, write_report

GOOD = Check(
    claim="A share is | uniform",
    assumption="AES-256",
    ours=Outcome(True, "p = 0.3\nof 12 tests", {"p": 0.3, "odd": math.inf}),
    twin="the mask is dropped",
    broken=Outcome(False, "p = 0", {"p": 0.0}),
    error_rate="1e-6",
)
LEAKS = replace(GOOD, claim="Nothing leaks", ours=Outcome(False, "a pixel"))
BLIND = replace(GOOD, claim="A blind check", broken=Outcome(True, "p = 0.5"))


def evaluation(*checks: Check, text: str = "", pictures: tuple[Picture, ...] = ()) -> Evaluation:
    return Evaluation("Views", "What is seen?", checks, text, pictures)


def report(folder: Path, *checks: Check, **changes: object) -> Report:
    section = Section("views", 2.0, evaluation(*checks))
    base = Report([section], ["views"], ["views"], {"python": "3.11"}, "2026-01-31", True, folder)
    return replace(base, **changes)  # type: ignore[arg-type]


def setting(folder: Path) -> Setting:
    return Setting(True, folder, lambda _: None)


def test_the_verdict_comes_first_and_counts(tmp_path):
    text = to_markdown(report(tmp_path, GOOD, GOOD))
    assert text.splitlines()[2].startswith("**Verdict: passed. All 2 checks hold")
    assert text.index("Verdict") < text.index("## Claims") < text.index("## Views") < text.index("## What this does not show")
    assert "2026-01-31" in text
    assert "python 3.11" in text


@pytest.mark.parametrize(("bad", "why"), [(LEAKS, "does not hold on Darkroom"), (BLIND, "the twin was not caught")])
def test_a_failed_check_is_named_at_the_top(tmp_path, bad: Check, why: str):
    one = report(tmp_path, GOOD, bad)
    assert not one.passed
    top = to_markdown(one).split("## Claims")[0]
    assert "NOT passed. 1 of 2 checks failed." in top
    assert f"{bad.claim}: {why}" in top


def test_an_evaluation_without_checks_does_not_pass(tmp_path):
    one = report(tmp_path)
    assert not one.passed
    assert "Without any check: views" in verdict(one)


def test_what_was_left_out_or_unfinished_is_said(tmp_path):
    assert "Partial run, without leaks" in verdict(report(tmp_path, GOOD, known=["views", "leaks"]))
    unfinished = report(tmp_path, GOOD, planned=["views", "leaks"])
    assert not unfinished.passed
    assert "Not finished: leaks" in verdict(unfinished)


def test_tables_survive_pipes_and_line_ends(tmp_path):
    row = next(line for line in to_markdown(report(tmp_path, GOOD)).splitlines() if "share is" in line)
    assert row.count("|") - row.count("\\|") == 9
    assert "p = 0.3 of 12 tests" in row


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_html_is_self_contained_and_harmless(tmp_path):
    hostile = '<script>alert(1)</script> <img src="http://elsewhere/x.png">\n\n[a](javascript:alert(1))'
    picture = Picture(tmp_path / "curve.png", "A [curve]")
    section = Section("views", 2.0, evaluation(replace(GOOD, claim=hostile), text=hostile, pictures=(picture,)))
    page = to_html(to_markdown(report(tmp_path, sections=[section])))
    tags = Tags()
    tags.feed(page)
    names = {name for name, _ in tags.seen}
    assert {"table", "h1", "h2", "img", "style"} <= names
    assert not names & {"script", "link", "iframe", "object"}
    assert [attributes["src"] for name, attributes in tags.seen if name == "img"] == ["curve.png"]
    assert not any((attributes.get("href") or "").startswith("javascript") for _, attributes in tags.seen)
    assert not any(key.startswith("on") for _, attributes in tags.seen for key in attributes)


def test_no_file_names_the_machine(tmp_path):
    picture = Picture(tmp_path / "curve.png", "A curve")
    section = Section("views", 2.0, evaluation(GOOD, pictures=(picture,)))
    for path in write_report(report(tmp_path, sections=[section])).values():
        assert str(tmp_path) not in path.read_text()


def test_json_is_strict_and_complete(tmp_path):
    content = json.loads(json.dumps(to_json(report(tmp_path, GOOD)), allow_nan=False))
    assert content["passed"] is True
    assert content["evaluations"][0]["checks"][0]["ours"]["figures"] == {"p": 0.3, "odd": None}
    assert content["evaluations"][0]["checks"][0]["broken"]["holds"] is False


def test_one_report_always_renders_the_same(tmp_path):
    one = report(tmp_path, GOOD, LEAKS)
    assert to_markdown(one) == to_markdown(one)


# --- the exit code ---


def run(folder: Path, check: Check, *arguments: str) -> int:
    return main(["--quick", "--out", str(folder), *arguments], find=lambda name: lambda setting: evaluation(check))


def test_exit_code_is_zero_only_if_every_check_passed(tmp_path, capsys):
    assert run(tmp_path, GOOD) == 0
    assert "passed. All 7 checks" in capsys.readouterr().out
    assert run(tmp_path, LEAKS) == 1
    assert run(tmp_path, BLIND) == 1
    assert "NOT passed" in capsys.readouterr().out
    assert "NOT passed" in (tmp_path / "report.md").read_text()


def test_one_bad_evaluation_among_good_ones_decides(tmp_path):
    def find(name: str):
        return lambda setting: evaluation(BLIND if name == EVALUATIONS[-1] else GOOD)

    assert main(["--out", str(tmp_path)], find=find) == 1


def test_an_evaluation_that_stops_is_a_failure_and_the_others_run(tmp_path, capsys):
    def find(name: str):
        def evaluate(setting: Setting) -> Evaluation:
            if name == "views":
                raise PeerUnavailableError("server A ended")
            return evaluation(GOOD)

        return evaluate

    assert main(["--out", str(tmp_path), "--json", "-"], find=find) == 1
    content = json.loads(capsys.readouterr().out)
    assert len(content["evaluations"]) == len(EVALUATIONS)
    assert "Not finished: views" in content["verdict"]
    assert "server A ended" in (tmp_path / "report.md").read_text()


def test_a_bug_in_an_evaluation_is_not_swallowed(tmp_path):
    def evaluate(setting: Setting) -> Evaluation:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_one("views", evaluate, setting(tmp_path))


def test_only_runs_some_and_says_so(tmp_path, capsys):
    asked: list[str] = []

    def find(name: str):
        asked.append(name)
        return lambda setting: evaluation(GOOD)

    assert main(["--out", str(tmp_path), "--only", "metrics", "collusion"], find=find) == 0
    assert asked == ["collusion", "metrics"]
    assert "Partial run, without attack_stock, views" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--quick"], ["--only", "metrics"], ["--engine", "crypten"]])
def test_only_a_whole_run_writes_into_the_documents(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments, find=lambda name: lambda setting: evaluation(GOOD)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["security-report"]


def test_unknown_names_are_a_usage_error(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path), "--only", "nonsense"])
    assert stop.value.code == 2


def test_the_commit_is_a_hash_or_unknown(tmp_path):
    run(tmp_path, GOOD)
    assert re.search(r"commit (unknown|[0-9a-f]{12})", (tmp_path / "report.md").read_text())


def test_the_page_names_the_engine_that_ran(tmp_path):
    masked = to_markdown(report(tmp_path, GOOD))
    assert "Engine: masked." in masked
    assert "exact or flagged" in masked
    assert "--quick`" in masked
    general = to_markdown(report(tmp_path, GOOD, engine=CRYPTEN))
    assert "Engine: crypten." in general
    assert "fails silently with a small probability" in general
    assert "--engine crypten`" in general
    assert "exact or flagged" not in general
