"""What the documents tell a newcomer to type works: the tutorial from top to bottom, and every example of `--help`."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from typer.testing import CliRunner

from darkroom.cli import app
from darkroom.sample import write_sample
from proto.fingerprints import readable
from tests.integration.forked_darkroom import serving

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```sh ?(?P<kind>\w*)\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r" (?:Example|Then, in another terminal):\s+(.+)", re.DOTALL)  # a paragraph of the help
SOURCE = re.compile(r"\[bold\]((?:[A-Za-z_ ]*=|darkroom )[^\[]+)\[/bold\]")  # the same, as it is written
STYLE = re.compile(r"\x1b\[[0-9;]*m")
COLUMNS_OF_HELP = 80  # a terminal as wide as most are when they open
SECONDS = 100  # for one block, on a loaded machine
RUNS_UNTIL_STOPPED = ("darkroom up", "darkroom serve-dicom")
READ_OUT = "9f3a 11c0 ..."  # stands for what somebody hears, in the one example that cannot know it


def bash(script: str) -> list[str]:
    found = shutil.which("bash")
    assert found, "the tutorial's commands are for bash"
    return [found, "-c", script]


def environment(*first: Path) -> dict[str, str]:
    """As a shell with the virtual environment activated. first: folders that stand before it in PATH."""
    folders = (*map(str, first), str(Path(sys.executable).parent), os.environ["PATH"])
    return {**os.environ, "PATH": os.pathsep.join(folders), "COLUMNS": "100"}


def started(command: str, folder: Path) -> "subprocess.Popen[str]":
    """A command that runs until it is stopped, once it has said on standard output that it serves."""
    *before, last = lines(command)
    process = subprocess.Popen(
        bash("\n".join([*before, f"exec {last}"])),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith("ready"), f"{command}: {line}{process.stderr.read() if not line else ''}"
    return process


def stopped(process: "subprocess.Popen[str]", code: int = 130) -> None:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == code, errors
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder in which `darkroom up --dir sim` runs."""
    made = tmp_path_factory.mktemp("tutorial")
    (first,) = [match["commands"] for match in BLOCK.finditer(TUTORIAL.read_text()) if match["kind"] == "up"]
    process = started(first.strip(), made)
    yield made
    stopped(process)


Run = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs commands in a shell, in a folder; every `darkroom` is a process that has its imports already."""

    def run_in(commands: str, folder: Path) -> "subprocess.CompletedProcess[str]":
        script = bash(f"set -euo pipefail\n{commands}")
        return subprocess.run(
            script, cwd=folder, env=environment(quick), capture_output=True, text=True, timeout=3 * SECONDS, check=False
        )

    with serving(tmp_path_factory.mktemp("quick") / "bin") as quick:
        yield run_in


@pytest.mark.timeout(4 * SECONDS)
def test_the_tutorial_from_top_to_bottom(folder: Path, run: Run) -> None:
    """Blocks share one shell, as the reader's do. One marked `fails` must end in the exit code that the text names."""
    commands = ""
    for match in BLOCK.finditer(TUTORIAL.read_text()):
        if match["kind"] == "fails":
            (code,) = re.findall(r"exit code (\d)", TUTORIAL.read_text()[match.end() :].split("```")[0])
            failing = match["commands"].rstrip().splitlines()
            commands += "\n".join(failing[:-1]) + f"\nif {failing[-1]}; then exit 99; else test $? -eq {code}; fi\n"
        elif match["kind"] != "up":
            commands += match["commands"]
    done = run(commands, folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for name in ("clean.dcm", "ward7.dcm", "gaussian.dcm", "clean/scan.dcm"):
        assert (folder / name).stat().st_size > 0, name
    assert not (folder / "nothing.dcm").exists()


def commands_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):  # typer's classes are its own, not click's
            yield from commands_of(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands_of(typer.main.get_group(app)))


def shown_help(name: str) -> str:
    """What `darkroom NAME --help` shows on a terminal of 80 columns, without its styles."""
    asked = [*name.split(), "--help"]
    done = CliRunner().invoke(app, asked, prog_name="darkroom", env={"COLUMNS": str(COLUMNS_OF_HELP), "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return STYLE.sub("", done.output)


def shown_examples(name: str) -> list[str]:
    """As they are copied from the terminal, with the blanks that pad each line."""
    paragraphs = re.split(r"\n\s*\n", shown_help(name).split("\u256d")[0])  # the first box ends the text
    return [found[1] for paragraph in paragraphs if (found := EXAMPLE.fullmatch(paragraph))]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_help_is_shown_here_as_by_the_command(run: Run, tmp_path: Path) -> None:
    done = run(f"COLUMNS={COLUMNS_OF_HELP} TERM=dumb darkroom store --help", tmp_path)
    assert STYLE.sub("", done.stdout) == shown_help("store")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(name: str) -> None:
    """And all are found in what is shown, with no line broken."""
    examples = shown_examples(name)
    assert any(f"darkroom {name}" in example for example in examples), shown_help(name)
    assert [lines(example) for example in examples] == [lines(written) for written in SOURCE.findall(COMMANDS[name].help or "")]


def examples() -> list[str]:
    """All but what is run elsewhere: by the fixture, the tutorial, CI (demo)."""
    found = [example for name in COMMANDS for example in shown_examples(name)]
    elsewhere = ("darkroom up", "darkroom demo", *TUTORIAL.read_text().splitlines())
    return [
        example for example in dict.fromkeys(found) if not example.startswith(elsewhere[:2]) and example.strip() not in elsewhere
    ]


def read_out(run: Run, folder: Path) -> str:
    """Server A's certificate is sent to server B, and its operator reads the fingerprint out: all of it, from its own table."""
    done = run("darkroom provision --dir mine --role server-b && cp sim/server-a/certs/server-a.crt .", folder)
    assert done.returncode == 0, done.stderr
    rows = json.loads(run("darkroom fingerprints --dir sim --json -", folder).stdout)["fingerprints"]
    (own,) = [row for row in rows if row["name"] == "server-a" and row["own"]]
    return readable(own["fingerprint"])


@pytest.mark.timeout(4 * SECONDS)
@pytest.mark.parametrize("example", examples())
def test_an_example_works_when_pasted(folder: Path, run: Run, example: str, tmp_path: Path) -> None:
    """In a folder with scan.dcm and net.pth, and beside the simulation that `darkroom up --dir sim` runs."""
    (tmp_path / "sim").symlink_to(folder / "sim")
    shapes = {0: (4, 1, 3, 3), 2: (4, 4, 3, 3), 4: (1, 4, 3, 3)}  # a DnCNN's, as small as can be
    torch.save({f"model.{place}.weight": torch.full(shape, 0.01) for place, shape in shapes.items()}, tmp_path / "net.pth")
    if "darkroom sample" not in example:
        write_sample(tmp_path / "scan.dcm")
    if lines(example)[-1].startswith(RUNS_UNTIL_STOPPED):  # the installed command itself
        stopped(started(example, tmp_path), code=0)  # a service: Ctrl-C is how it ends, its spool is kept
        return
    if example.startswith("darkroom accept"):
        assert READ_OUT in example
        example = example.replace(READ_OUT, read_out(run, tmp_path))
    done = run(example, tmp_path)
    assert done.returncode == 0, f"{example}: {done.stderr}"


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("module", ["server_a", "server_b", "dealer"])
def test_a_partys_example_works_when_pasted(
    folder: Path, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.setenv("COLUMNS", str(COLUMNS_OF_HELP))
    with pytest.raises(SystemExit):
        runpy.run_module(module, run_name="__main__")
    (example,) = re.findall(r"^example: (python -m .+)$", capsys.readouterr().out, re.MULTILINE)
    assert example.startswith(f"python -m {module} ")
    done = subprocess.run(
        bash(example),
        cwd=folder,
        env=environment() | {"PYTHONPATH": str(TUTORIAL.parents[1])},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
