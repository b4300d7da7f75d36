"""What operators are given: units, Compose files and the commands of docs/deployment.md are as hard as they say, and current."""

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
from proto.party import DRAIN_SECONDS, LAST_WORDS_SECONDS

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
GUIDE = REPOSITORY / "docs" / "deployment.md"
ROLES = {"server-a": ("server_a", "server.toml"), "server-b": ("server_b", "server.toml"), "dealer": ("dealer", "dealer.toml")}
STOPPING_SECONDS = DRAIN_SECONDS + LAST_WORDS_SECONDS  # what a party takes at most, by itself
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


@pytest.mark.parametrize("role", ROLES)
def test_units_are_hardened_and_know_one_role_only(role: str) -> None:
    module, config = ROLES[role]
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    text = (DEPLOY / "systemd" / f"darkroom-{role}.service").read_text()
    unit.read_string(text)
    service = unit["Service"]
    assert {key: service[key] for key in HARDENED} == HARDENED
    assert service["ExecStart"].endswith(f"python -P -m {module} --config /var/lib/darkroom/{role}/{config}")
    assert service["ReadWritePaths"] == f"/var/lib/darkroom/{role}"
    assert not [other for other in ROLES if other != role and f"darkroom/{other}" in text]
    assert float(service["TimeoutStopSec"]) > STOPPING_SECONDS  # else an evaluation under way is killed


@pytest.mark.parametrize("role", ROLES)
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


def documented() -> list[str]:
    """Each `darkroom ...` command in a code block of the guide; a line that ends in a backslash goes on."""
    blocks = re.findall(r"^```\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("darkroom ")]


@pytest.mark.parametrize("line", documented())
def test_the_guides_commands_are_commands(line: str) -> None:
    """Each is parsed as the command line parses it: an option that is gone, or misspelt, fails here."""
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("darkroom", words)


def test_the_guide_has_commands() -> None:
    names = {shlex.split(line)[1] for line in documented()}
    assert {"provision", "accept", "fingerprints", "doctor", "model", "store", "denoise"} <= names
