"""Ctrl-C in each command: exit code 130, one line, nothing on standard output, and nothing left anywhere."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from pydicom.data import get_testdata_file

from client import acquisition, edge
from client.model_file import Model, save_model
from client.records import ObjectRecord
from darkroom.pacs.addresses import parse_peer
from darkroom.pacs.sender import Destination
from darkroom.provision import provision
from proto.transport import fingerprint
from tests.integration.conftest import picture
from tests.integration.failing_site import FailingSite, wait_until
from tests.integration.test_tutorial import COMMANDS

SECONDS = 300.0
DNCNN = {0: (4, 1, 3, 3), 2: (4, 4, 3, 3), 4: (1, 4, 3, 3)}  # shapes of its weights, as small as can be

pytestmark = pytest.mark.timeout(600)


def start(*arguments: object, module: str = "darkroom") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def interrupt(running: "subprocess.Popen[str]", held: int | None = None) -> str:
    """Send SIGINT; check how the command ends. Returns what it has said on standard error since.

    held: our end of the FIFO that the command reads. Closed after the signal, which may have come between Python's last look for
    signals and the read: the command would then wait in the read, with the signal noted, as long as we hold our end.
    """
    running.send_signal(signal.SIGINT)
    if held is not None:
        os.close(held)
    try:
        out, err = running.communicate(timeout=SECONDS)
    finally:
        running.kill()  # nothing, where it has ended
    assert running.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    lines = err.splitlines()
    assert lines[-1] == "darkroom: interrupted"
    assert lines.count("darkroom: interrupted") == 1
    return err


def read_until(running: "subprocess.Popen[str]", stage: str) -> None:
    """Read what the command says on standard error, up to a line with this stage."""
    assert running.stderr is not None
    seen = []
    while line := running.stderr.readline():
        seen.append(line)
        if stage in line:
            return
    raise AssertionError(f"it ended without {stage!r}: {seen}")


@dataclass(frozen=True)
class Given:
    """What a command is given to work on."""

    site: FailingSite
    npy: Path
    object_id: str
    model: Path

    def config(self, name: str) -> tuple[str, Path]:
        return "--config", self.site.site.root / name


@pytest.fixture
def given(failing: FailingSite, npy: Path, model: Model, tmp_path: Path) -> Iterator[Given]:
    record = acquisition.store(failing.config, picture(), sigma=0.05)
    edge.denoise(failing.config, record.object_id, model="tiny")
    path = tmp_path / "tiny.safetensors"
    save_model(path, model.network, model.weights, bound=8.0)
    yield Given(failing, npy, str(record.object_id), path)
    failing.repair()


# The line on which it waits for ever, and the command.
HELD: dict[str, tuple[str, Callable[[Given], tuple[object, ...]]]] = {
    "store": ("client-b", lambda g: ("store", g.npy, *g.config("client.toml"))),
    "denoise ID": (
        "client-b",
        lambda g: ("denoise", g.object_id, "-o", g.npy.with_name("out.npy"), "--model", "tiny", *g.config("edge.toml")),
    ),
    "denoise FILE": (
        "peer",
        lambda g: ("denoise", g.npy, "-o", g.npy.with_name("out.npy"), "--model", "tiny", *g.config("hospital.toml")),
    ),
    "delete": ("client-a", lambda g: ("delete", g.object_id, *g.config("client.toml"))),
    "doctor": ("client-a", lambda g: ("doctor", *g.config("hospital.toml"))),
    "model push": (
        "client-a",  # on dealer-a servers ask whether the dealer is alive, push or no push
        lambda g: ("model", "push", g.model, *g.config("model-owner.toml")),
    ),
    "model list": ("client-a", lambda g: ("model", "list", *g.config("hospital.toml"))),
}


@pytest.mark.parametrize("command", HELD)
def test_interrupted_while_a_peer_does_not_answer(given: Given, command: str) -> None:
    line, arguments = HELD[command]
    before, records = given.site.stored(), sorted(given.site.config.objects.iterdir())
    given.site.lines[line].stall()
    running = start(*arguments(given))
    if command == "denoise FILE":  # the servers may have something to say to each other before
        read_until(running, "opened a window")
    wait_until(lambda: given.site.lines[line].holding or running.poll() is not None, "nothing was sent")
    interrupt(running)
    assert not given.npy.with_name("out.npy").exists()
    assert {path.name for path in given.npy.parent.iterdir()} == {"in.npy", "tiny.safetensors"}
    assert sorted(given.site.config.objects.iterdir()) == records
    given.site.repair()
    given.site.wait_for_stored(before)
    given.site.require_no_session("server-a", "server-b")
    edge.denoise(given.site.config, given.object_id, model="tiny")


def test_interrupted_while_two_planes_of_a_file_are_under_way(failing: FailingSite, tmp_path: Path) -> None:
    """Both are taken back, and the third never comes."""
    before, records = failing.stored(), sorted(failing.config.objects.glob("*.json"))
    path = tmp_path / "in.tif"
    pixels = np.stack([1000 * picture(seed=number).pixels.numpy() for number in range(3)])
    tifffile.imwrite(path, pixels.clip(0, 2000).astype(np.uint16), photometric="minisblack")
    failing.lines["peer"].stall()
    running = start("denoise", path, "-o", tmp_path / "out.tif", "--model", "tiny", "--config", failing.hospital_file)
    try:
        read_until(running, "plane 2 of 3")
        wait_until(lambda: len(failing.stored()) == len(before) + 4, "the second plane was not stored")
        wait_until(lambda: failing.lines["peer"].holding, "nothing was sent")
        err = interrupt(running)
    finally:
        failing.repair()
    assert "plane 3" not in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.tif"]
    assert sorted(failing.config.objects.glob("*.json")) == records
    failing.wait_for_stored(before)
    failing.require_no_session("server-a", "server-b")


def test_interrupted_while_a_share_is_stored(failing: FailingSite, tmp_path: Path) -> None:
    """B has a part of it, A the whole: what reaches a server that answers is taken back, and the rest is said."""
    before = failing.stored()
    path = tmp_path / "large.npy"
    np.save(path, picture(512, 512).pixels.numpy())
    failing.lines["client-b"].stall(1 << 16, sent=True)
    running = start("store", path, "--sigma", "25", "--config", failing.site.root / "client.toml")
    try:
        read_until(running, "stored its share")  # A: it is asked first
        wait_until(lambda: failing.lines["client-b"].holding, "nothing was sent")
        err = interrupt(running)
    finally:
        failing.repair()
    assert "server B may still hold a share: run `darkroom delete" in err
    acquisition.delete(failing.config, err.partition("darkroom delete ")[2][:32])
    failing.wait_for_stored(before)


def processes_of(folder: Path) -> list[int]:
    """Every process whose command line names this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(folder) in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            pass  # it has just ended
    return found


@pytest.mark.parametrize(("command", "after"), [("up", "server B listens on"), ("demo", "dealer listens on")])
def test_interrupted_while_the_simulation_starts(tmp_path: Path, command: str, after: str) -> None:
    folder = tmp_path / "site"
    out = ("--out", tmp_path / "out") if command == "demo" else ()
    running = start(command, "--dir", folder, *out)
    read_until(running, after)
    interrupt(running)
    assert processes_of(folder) == []
    if command == "demo":
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("command", ["provision", "fingerprints"])
def test_interrupted_while_it_reads_the_folders(tmp_path: Path, command: str) -> None:
    site = provision(tmp_path / "site")
    certificate = site.certificate("dealer", held_by="dealer")
    certificate.unlink()
    os.mkfifo(certificate)
    before = sorted(site.root.rglob("*"))
    running = start(command, "--dir", site.root)
    writer = os.open(certificate, os.O_WRONLY)  # returns when the command has opened it, and now waits for what it says
    interrupt(running, held=writer)
    assert sorted(site.root.rglob("*")) == before


def accepting(folder: Path) -> tuple[object, ...]:
    """The command with which server B pins server A's certificate."""
    a, b = provision(folder / "a", roles=["server-a"]), provision(folder / "b", roles=["server-b"])
    certificate = a.certificate("server-a", held_by="server-a")
    return "accept", certificate, "--dir", b.root, "--fingerprint", fingerprint(certificate.read_bytes())


def importing(folder: Path) -> tuple[object, ...]:
    torch.save({f"model.{place}.weight": torch.full(shape, 0.01) for place, shape in DNCNN.items()}, folder / "net.pth")
    return "model", "import-dncnn", folder / "net.pth", "-o", folder / "dncnn.safetensors"


# In which call it is held, and the command. `fsync`: what it writes is in a file that is not whole.
MOMENTS: dict[str, tuple[tuple[str, str], Callable[[Path], tuple[object, ...]]]] = {
    "sample": (("os", "fsync"), lambda folder: ("sample", folder / "scan.dcm")),
    "key new": (("os", "fsync"), lambda folder: ("key", "new", folder / "noise.key")),
    "accept": (("os", "fsync"), accepting),
    "model import-dncnn": (("os", "fsync"), importing),
    "plan": (("protocols.ring", "conv2d"), lambda folder: ("plan", "--size", "64x64", "--json", folder / "plan.json")),
}


@pytest.mark.parametrize("command", MOMENTS)
def test_interrupted_in_a_moments_work(tmp_path: Path, command: str) -> None:
    call, arguments = MOMENTS[command]
    folder, fifo = tmp_path / "folder", tmp_path / "fifo"
    folder.mkdir()
    os.mkfifo(fifo)
    given = arguments(folder)
    before = sorted(folder.rglob("*"))
    running = start(fifo, *call, *given, module="tests.integration.held_darkroom")
    writer = os.open(fifo, os.O_WRONLY)  # returns when the command has come to that call
    interrupt(running, held=writer)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("command", ["key export"])
def test_interrupted_while_a_key_is_exported(failing: FailingSite, tmp_path: Path, command: str) -> None:
    record: ObjectRecord = acquisition.store(failing.config, picture(), sigma=0.05)
    config = tmp_path / "client.toml"
    os.mkfifo(config)
    running = start(*command.split(), record.object_id, "-o", tmp_path / "ward.json", "--config", config)
    writer = os.open(config, os.O_WRONLY)  # returns when the command has opened it, and now waits for what it says
    interrupt(running, held=writer)
    assert [path.name for path in tmp_path.iterdir()] == ["client.toml"]


@pytest.mark.parametrize("command", ["serve-dicom"])
def test_a_second_signal_ends_a_service_at_once(failing: FailingSite, tmp_path: Path, command: str) -> None:
    """The first has it finish what is at hand, which here would take for ever; the object goes, its image stays in the spool."""
    before = failing.stored()
    failing.lines["peer"].stall()
    spool = tmp_path / "spool"
    options = ("--listen", "127.0.0.1:0", "--send-to", "PACS@127.0.0.1:1", "--spool", spool, "--model", "tiny")
    running = start(command, *options, "--config", failing.hospital_file)
    try:
        assert running.stdout is not None
        address = running.stdout.readline().strip().removeprefix("ready: ")
        Destination(parse_peer(address), our_aet="CT1", tls=None).send(Path(get_testdata_file("CT_small.dcm", download=False)))
        wait_until(lambda: len(failing.stored()) == len(before) + 2, "the object was not stored")
        running.send_signal(signal.SIGTERM)
        interrupt(running)
    finally:
        failing.repair()
    failing.wait_for_stored(before)
    failing.require_no_session("server-a", "server-b")
    assert [path.suffix for path in (spool / "incoming").iterdir()] == [".dcm"]
    assert not list((spool / "outgoing").iterdir())


def interrupted_commands() -> set[str]:
    """What the tests above are run for: each has its commands as a parameter of that name. Capitals say what is given to one."""
    found: set[str] = set()
    for test in [value for name, value in globals().items() if name.startswith("test_")]:
        for mark in getattr(test, "pytestmark", []):
            if mark.name == "parametrize" and "command" in mark.args[0]:
                found |= {case if isinstance(case, str) else case[0] for case in mark.args[1]}
    return {" ".join(word for word in command.split() if not word.isupper()) for command in found}


def test_every_command_is_interrupted() -> None:
    assert interrupted_commands() == set(COMMANDS)
