"""The date, the commit and the machine that figures come from."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import origin


def git(folder: Path, *words: str) -> None:
    command = [shutil.which("git") or "git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    subprocess.run(command, check=True, capture_output=True)


def test_a_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert origin.commit(tmp_path) == "unknown"
    git(tmp_path, "init")
    (tmp_path / "tracked").write_text("one")
    git(tmp_path, "add", "tracked")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "beside").write_text("no part of it")
    clean = origin.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "tracked").write_text("two")
    assert origin.commit(tmp_path) == f"{clean} with local changes"


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, commit unknown", origin.today())


def test_the_machine_names_what_figures_depend_on() -> None:
    here = origin.machine()
    assert here.keys() == {"cores", "processor", "versions"}
    assert {"Darkroom", "python", "torch", "crypten"} <= here["versions"].keys()
    assert here["cores"] >= 1
    assert here["processor"]
