"""Three machines with nothing in common but a wire: A, B, and the hospital with its dealer. As docs/deployment.md has it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from client.model_file import Model, save_model
from client.report import float_estimate
from tests.integration.conftest import NETWORK, picture
from tests.integration.machines import Machine, environment, machines, missing

pytestmark = pytest.mark.timeout(900)

ADDRESSES = {"hospital": "10.77.0.1", "a": "10.77.0.2", "b": "10.77.0.3"}
HOSTS = "127.0.0.1 localhost\n10.77.0.1 hospital.test\n10.77.0.2 a.test\n10.77.0.3 b.test\n"
TOLERANCE = 1 / 1023
SIGMA = 0.05
PLACES = {"server-a": "a", "server-b": "b", "dealer": "hospital", "hospital": "hospital", "model-owner": "hospital"}

Machines = dict[str, Machine]


def provisioned(root: Path) -> Path:
    """All roles' folders, made on one desk: A has a name for the hospital, and an address for B."""
    arguments = ["--server-a", "a.test:7601", "--server-a", "10.77.0.2:7601", "--server-b", "b.test:7602"]
    arguments += ["--dealer", "hospital.test:7600", "--route", "server-b:server-a=10.77.0.2:7601"]
    done = subprocess.run(
        [sys.executable, "-m", "darkroom", "provision", "--dir", str(root), *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Folders made on one desk, moved to their machines, and the parties started there."""
    if lacking := missing():
        pytest.skip(lacking)
    root = tmp_path_factory.mktemp("machines")
    with machines(root, ADDRESSES, HOSTS) as made:
        desk = provisioned(root / "desk")
        for role, place in PLACES.items():
            shutil.move(desk / role, made[place].folder / role)
        shutil.rmtree(desk)
        hospital, a, b = made["hospital"], made["a"], made["b"]
        hospital.start("dealer", Path("dealer/dealer.toml"), hospital.folder / "dealer" / "dealer.ready")
        address = a.start("server_a", Path("server-a/server.toml"), a.folder / "server-a" / "a.ready")
        assert address == "a.test:7601"
        b.start("server_b", Path("server-b/server.toml"), b.folder / "server-b" / "b.ready")
        yield made


def test_every_machine_sees_its_own_folder_alone(site: Machines) -> None:
    for machine in site.values():
        for other in site.values():
            seen = machine.run("ls", "-A", other.folder).stdout.split()
            assert bool(seen) is (other is machine), (machine.name, other.name)


def test_a_server_checks_itself_and_its_peers(site: Machines) -> None:
    done = site["b"].run(sys.executable, "-P", "-m", "server_b", "--config", "server-b/server.toml", "--check", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["checks"]}
    for peer in ("the dealer", "server A"):
        for what in ("is who it should be", "knows us", "version", "clock", "free memory"):
            assert rows[f"{peer}: {what}"]["ok"], (peer, what)
    assert "server A: free disk" in rows
    assert "the dealer: free disk" not in rows


def test_the_main_job_between_three_machines(site: Machines, model: Model, tmp_path: Path) -> None:
    hospital = site["hospital"]
    save_model(hospital.folder / "tiny.safetensors", NETWORK, model.weights, bound=8.0)
    image = picture(64, 64)
    np.save(hospital.folder / "in.npy", image.pixels.numpy())
    hospital.darkroom("model", "push", "tiny.safetensors", "--config", "model-owner/model-owner.toml")
    report = json.loads(hospital.darkroom("doctor", "--json", "-", "--config", "hospital/hospital.toml"))
    assert report["ok"]
    names = {check["name"] for check in report["checks"]}
    assert {f"server {letter}: {what}" for letter in "AB" for what in ("version", "clock", "free memory", "free disk")} <= names
    command = ("store", "in.npy", "--sigma", SIGMA * 255, "--config", "hospital/client.toml")
    object_id = hospital.darkroom(*command)
    hospital.darkroom("denoise", object_id, "-o", "out.npy", "--model", "tiny", "--config", "hospital/edge.toml")
    result = torch.from_numpy(np.load(hospital.folder / "out.npy"))
    assert float((result - float_estimate(model, image.pixels, SIGMA)).abs().max()) <= TOLERANCE
    for letter in "ab":
        assert (site[letter].folder / f"server-{letter}" / f"{letter}.store" / "objects" / f"{object_id}.share").exists()
    hospital.darkroom("delete", object_id, "--config", "hospital/client.toml")


def test_a_stray_dealer_at_server_a_is_refused(site: Machines) -> None:
    a, hospital = site["a"], site["hospital"]
    shutil.copytree(hospital.folder / "dealer", a.folder / "stray-dealer")
    done = a.run(sys.executable, "-P", "-m", "dealer", "--config", "stray-dealer/dealer.toml")
    assert done.returncode != 0
    assert "server-a at a.test:7601 is on this machine" in done.stderr
    assert "every image" in done.stderr
    shutil.rmtree(a.folder / "stray-dealer")


def test_a_server_told_of_a_dealer_on_its_own_machine_does_not_start(site: Machines) -> None:
    b = site["b"]
    settings = (b.folder / "server-b" / "server.toml").read_text()
    told = b.folder / "server-b" / "told.toml"
    told.write_text(settings.replace("hospital.test:7600", "10.77.0.3:7600"))
    done = b.run(sys.executable, "-P", "-m", "server_b", "--config", told)
    assert done.returncode != 0
    assert "the dealer at 10.77.0.3:7600 is on this machine" in done.stderr
    told.unlink()


def test_the_doctor_names_whom_it_met(site: Machines) -> None:
    hospital = site["hospital"]
    swapped = hospital.folder / "hospital" / "swapped.toml"
    text = (hospital.folder / "hospital" / "hospital.toml").read_text()
    swapped.write_text(text.replace("b.test:7602", "a.test:7601"))
    done = hospital.run(sys.executable, "-m", "darkroom", "doctor", "--config", swapped)
    swapped.unlink()
    assert done.returncode == 4
    assert "a.test:7601 shows a certificate that is that of server A, not server B's" in done.stdout
