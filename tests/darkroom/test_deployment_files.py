"""What operators are given: units and Compose files are as hard as they say, and documented commands are commands."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from darkroom.cli import app
from darkroom.pacs.command import BUSY_SECONDS
from proto.party import DRAIN_SECONDS, LAST_WORDS_SECONDS

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
GUIDE = REPOSITORY / "docs" / "deployment.md"
PAGES = {  # and commands that each has
    GUIDE: {"provision", "accept", "fingerprints", "doctor", "model", "store", "denoise"},
    REPOSITORY / "README.md": {"up", "doctor", "store", "denoise", "delete"},
    REPOSITORY / "docs" / "pacs.md": {"doctor", "serve-dicom"},
    REPOSITORY / "docs" / "batch.md": {"denoise"},
    REPOSITORY / "docs" / "tutorial.md": {"up", "sample", "key", "store", "denoise", "delete"},
}
IN_CONTAINER = "docker compose run --rm "
COMMAND = re.compile(rf"(?:{IN_CONTAINER}\S+ |ID=\$\(|\.venv/bin/)*(?P<command>darkroom [^)]*)")
ROLES = {"server-a": ("server_a", "server.toml"), "server-b": ("server_b", "server.toml"), "dealer": ("dealer", "dealer.toml")}
STOPPING_SECONDS = DRAIN_SECONDS + LAST_WORDS_SECONDS  # what a party takes at most, by itself
UNITS = {**{role: role for role in ROLES}, "serve-dicom": "hospital"}  # and the one folder that each may write
PLACES = {"server-a": "operator-a", "server-b": "operator-b", "dealer": "dealer"}
HARDENED = {
    "NoNewPrivileges": "true",
    "ProtectSystem": "strict",
    "ProtectHome": "true",
    "PrivateTmp": "true",
    "MemorySwapMax": "0",
    "LimitCORE": "0",
    "UMask": "0077",
    "CapabilityBoundingSet": "",
    "Restart": "on-failure",
    "User": "darkroom",
}


def unit(name: str) -> configparser.RawConfigParser:
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string((DEPLOY / "systemd" / f"darkroom-{name}.service").read_text())
    return parsed


@pytest.mark.parametrize("name", UNITS)
def test_units_are_hardened_and_know_one_role_only(name: str) -> None:
    service = unit(name)["Service"]
    assert {key: service[key] for key in HARDENED} == HARDENED
    assert service["WorkingDirectory"] == service["ReadWritePaths"] == f"/var/lib/darkroom/{UNITS[name]}"
    text = (DEPLOY / "systemd" / f"darkroom-{name}.service").read_text()
    assert not [other for other in UNITS.values() if other != UNITS[name] and f"darkroom/{other}" in text]
    assert unit(name)["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize("role", ROLES)
def test_units_of_parties_start_them_and_let_them_end(role: str) -> None:
    module, config = ROLES[role]
    service = unit(role)["Service"]
    assert service["ExecStart"].endswith(f"python -P -m {module} --config /var/lib/darkroom/{role}/{config}")
    assert float(service["TimeoutStopSec"]) > STOPPING_SECONDS  # else an evaluation under way is killed


def test_the_unit_of_the_dicom_node_starts_it_and_lets_it_end() -> None:
    """With the options that docs/pacs.md puts into the unit's file of settings."""
    service = unit("serve-dicom")["Service"]
    page = REPOSITORY / "docs" / "pacs.md"
    assert service["EnvironmentFile"] in page.read_text()
    (options,) = [line.removeprefix("SERVE_DICOM=") for line in block_lines(page) if line.startswith("SERVE_DICOM=")]
    before, words = service["ExecStart"].split(" -m darkroom ")
    assert before == "/opt/darkroom/.venv/bin/python -P"
    parse(shlex.split(words.replace("$SERVE_DICOM", shlex.split(options)[0])))
    minutes = service["TimeoutStopSec"].removesuffix("min")
    assert 60 * float(minutes) > BUSY_SECONDS


@pytest.mark.parametrize("role", UNITS)
def test_units_are_units_to_systemd(role: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / f"darkroom-{role}.service"
    text = (DEPLOY / "systemd" / path.name).read_text()
    path.write_text(text.replace("/opt/darkroom/.venv/bin/python", sys.executable))
    done = subprocess.run([analyze, "verify", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("role", ROLES)
def test_compose_files_are_closed_and_know_one_role_only(role: str) -> None:
    module, config = ROLES[role]
    path = DEPLOY / "compose" / PLACES[role] / "compose.yaml"
    services = yaml.safe_load(path.read_text())["services"]
    assert list(services) == [role]
    service = services[role]
    folder = f"/var/lib/darkroom/{role}"
    assert service["command"] == [module, "--config", f"{folder}/{config}"]
    assert service["volumes"] == [{"type": "bind", "source": folder, "target": folder}]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0}
    assert service["mem_limit"] == service["memswap_limit"]
    assert service["network_mode"] == "host"
    assert float(service["stop_grace_period"].removesuffix("s")) > STOPPING_SECONDS
    assert (
        path.parent / service["build"]["context"] / service["build"]["dockerfile"]
    ).resolve() == DEPLOY / "compose" / "Dockerfile"


def test_the_image_holds_every_package_and_no_folder_of_a_role() -> None:
    copied = set(re.findall(r"^COPY (\S+) \1$", (DEPLOY / "compose" / "Dockerfile").read_text(), re.MULTILINE))
    packaged = re.search(r"wheel]\npackages = \[(.*?)]", (REPOSITORY / "pyproject.toml").read_text())
    assert packaged is not None
    assert copied == set(re.findall(r'"(\w+)"', packaged[1]))
    ignored = (DEPLOY / "compose" / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {"**/*.key", "**/*.store"} <= set(ignored)


def block_lines(page: Path) -> list[str]:
    """What stands in a page's code blocks; a line that ends in a backslash goes on."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


def documented(page: Path) -> list[str]:
    """Each `darkroom ...` command: by itself, in `ID=$(...)`, from a clone's .venv, and in a container."""
    found = (COMMAND.match(line) for line in block_lines(page))
    return [match["command"] for match in found if match]


def in_containers() -> list[list[str]]:
    """The words of each `docker compose run`, from the service on."""
    lines = [line.removeprefix(IN_CONTAINER) for line in block_lines(GUIDE) if line.startswith(IN_CONTAINER)]
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in documented(page)}))
def test_documented_commands_are_commands(line: str) -> None:
    """Each is parsed as the command line parses it: an option that is gone, or misspelt, fails here."""
    parse(shlex.split(line, comments=True)[1:])


def parse(words: list[str]) -> None:
    """Raises typer's error of usage."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("darkroom", words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_have_commands(page: Path) -> None:
    assert {shlex.split(line)[1] for line in documented(page)} >= PAGES[page]


def test_containers_run_what_the_image_has() -> None:
    """The image's entry point takes a module: this role's own, or the command line, with paths that the container sees."""
    assert (DEPLOY / "compose" / "Dockerfile").read_text().splitlines()[-1] == 'ENTRYPOINT ["python", "-P", "-m"]'
    commands = in_containers()
    assert {(module, words[0]) for _, module, *words in commands} == {
        ("server_a", "--config"),
        *(("darkroom", command) for command in ("provision", "fingerprints", "accept")),
    }
    for role, module, *words in commands:
        assert module in (ROLES[role][0], "darkroom")
        paths = [word for word in words if word.startswith("/") or word.endswith(".crt")]
        assert paths
        assert all(path == "/var/lib/darkroom" or path.startswith(f"/var/lib/darkroom/{role}/") for path in paths)
