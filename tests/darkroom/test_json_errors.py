"""`--json` on every command that has a result; and each that fails writes its error there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from darkroom.cli import app
from darkroom.provision import Site
from tests.darkroom.test_cli import OBJECT, site  # noqa: F401 - a fixture
from tests.darkroom_command import Darkroom

NO_RESULT = {"up", "serve-dicom"}  # they serve until they are stopped

Command = Callable[[Path, Path], tuple[object, ...]]
# The exit code, and a command that ends so without a server. Given: a folder with what is there already, and the site's.
FAILING: dict[str, tuple[int, Command]] = {
    "demo": (3, lambda folder, root: ("demo", "--sigma", "99", "--out", folder)),
    "sample": (4, lambda folder, root: ("sample", folder / "here")),
    "store": (3, lambda folder, root: ("store", folder / "here", "--config", root / "client.toml")),
    "denoise ID": (3, lambda folder, root: ("denoise", OBJECT, "-o", "out.npy", "--config", root / "edge.toml")),
    "denoise FILE": (3, lambda folder, root: ("denoise", folder / "here", "-o", "o.npy", "--config", root / "hospital.toml")),
    "denoise DIR": (3, lambda folder, root: ("denoise", folder, "-o", folder / "out", "--config", root / "hospital.toml")),
    "plan": (4, lambda folder, root: ("plan", "--size", "64x64", "--model", "none")),
    "delete": (3, lambda folder, root: ("delete", "abc", "--config", root / "client.toml")),
    "doctor": (4, lambda folder, root: ("doctor", "--config", folder / "none.toml")),
    "provision": (
        4,
        lambda folder, root: ("provision", "--dir", folder / "new", "--server-a", "10.1.1.1:1", "--dealer", "10.1.1.1:2"),
    ),
    "accept": (4, lambda folder, root: ("accept", folder / "none.crt", "--fingerprint", "0" * 64, "--dir", root)),
    "fingerprints": (4, lambda folder, root: ("fingerprints", "--dir", folder / "none")),
    "model push": (4, lambda folder, root: ("model", "push", "none", "--config", root / "model-owner.toml")),
    "model list": (4, lambda folder, root: ("model", "list", "--config", folder / "none.toml")),
    "model import-dncnn": (3, lambda folder, root: ("model", "import-dncnn", folder / "here", "-o", folder / "n.safetensors")),
    "key new": (4, lambda folder, root: ("key", "new", folder / "here")),
    "key export": (3, lambda folder, root: ("key", "export", OBJECT, "-o", folder / "o", "--config", root / "client.toml")),
}


def names() -> set[str]:
    group = typer.main.get_group(app)
    found: set[str] = set()
    for name, command in group.commands.items():
        found |= {f"{name} {each}" for each in command.commands} if hasattr(command, "commands") else {name}
    return found


def test_the_table_has_every_command_with_a_result() -> None:
    assert {command.removesuffix(" ID").removesuffix(" FILE").removesuffix(" DIR") for command in FAILING} == names() - NO_RESULT


@pytest.mark.parametrize("command", FAILING)
def test_an_error_is_told_as_json(darkroom: Darkroom, site: Site, tmp_path: Path, command: str) -> None:  # noqa: F811
    (tmp_path / "here").write_text("" if command == "denoise DIR" else "no image")
    code, arguments = FAILING[command]
    done = darkroom(*arguments(tmp_path, site.root), "--json", "-")
    assert done.returncode == code, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["exit_code"] == code
    assert f"darkroom: {error['message']}" in done.stderr


@pytest.mark.parametrize("command", FAILING)
def test_nowhere_to_write_is_said_first(darkroom: Darkroom, site: Site, tmp_path: Path, command: str) -> None:  # noqa: F811
    (tmp_path / "here").write_text("no image")
    before = sorted(tmp_path.rglob("*"))
    done = darkroom(*FAILING[command][1](tmp_path, site.root), "--json", tmp_path / "none" / "report.json")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"darkroom: {tmp_path}/none/report.json cannot be written: there is no folder {tmp_path}/none\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_results_of_small_commands(darkroom: Darkroom, tmp_path: Path) -> None:
    for command in (("sample",), ("key", "new")):
        path = tmp_path / command[-1]
        done = darkroom(*command, path, "--json", "-")
        assert (done.returncode, json.loads(done.stdout)) == (0, {"file": str(path)}), done.stderr
        assert path.stat().st_size > 0


def test_keys_are_not_mixed_with_json(darkroom: Darkroom, site: Site) -> None:  # noqa: F811
    done = darkroom("key", "export", OBJECT, "--config", site.root / "client.toml", "--json", "-")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--output" in done.stderr
