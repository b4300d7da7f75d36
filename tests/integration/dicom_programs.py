"""DCMTK's and Orthanc's programs, as Debian packages them, started by a test on free ports; a test that lacks one is skipped."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DEADLINE_SECONDS = 100.0  # of a loaded machine
LOOK_SECONDS = 0.2


def program(name: str, package: str) -> str:
    """The path of a program, or the test is skipped."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is missing: apt-get install {package}")
    return path


def free_port() -> int:
    """A port that nobody has at the moment: these programs cannot choose one and tell it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, holds: Callable[[], bool], process: "subprocess.Popen[Any]") -> None:
    """Wait on the process's exit in short turns, and look in between."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not after {DEADLINE_SECONDS:.0f} s"
        try:
            process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"{what}: the process ended with {process.returncode}")


def dcmtk(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run one of DCMTK's clients to its end."""
    command = [program(name, "dcmtk"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)


def echoes(aet: str, port: int) -> bool:
    return dcmtk("echoscu", "-aec", aet, "127.0.0.1", port).returncode == 0


@contextmanager
def storescp(folder: Path, port: int) -> Iterator[None]:
    """DCMTK's receiver, which writes what it gets into a folder."""
    folder.mkdir()
    command = [program("storescp", "dcmtk"), "--aetitle", "PACS", "--output-directory", str(folder), str(port)]
    with subprocess.Popen(command) as process:
        try:
            until("storescp answers", lambda: echoes("PACS", port), process)
            yield
        finally:
            process.kill()


class Orthanc:
    """A running Orthanc: where it receives, and its REST interface."""

    def __init__(self, dicom_port: int, http_port: int) -> None:
        self.dicom_port, self._http_port = dicom_port, http_port

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http_port}{path}", timeout=DEADLINE_SECONDS) as answer:  # noqa: S310
            return json.load(answer)


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """An empty Orthanc that takes every image, for this machine alone."""
    path = program("Orthanc", "orthanc")
    running = Orthanc(free_port(), free_port())
    folder.mkdir()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [],
        "HttpPort": running._http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": running.dicom_port,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([path, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder) as process,
    ):
        try:
            until("Orthanc answers", lambda: echoes("ORTHANC", running.dicom_port), process)
            yield running
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


class Service:
    """A running `darkroom serve-dicom`."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: Path, spool: Path) -> None:
        self.process, self.port, self.spool, self._log = process, port, spool, log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def waiting(self, stage: str) -> int:
        return len(list((self.spool / stage).glob("*.dcm")))

    def metrics(self) -> str:
        """What Prometheus would read, where the log says that it finds it."""
        (address,) = re.findall(r'"metrics": "([^"]+)"', self.log)
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=DEADLINE_SECONDS) as answer:  # noqa: S310
            return str(answer.read().decode())

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        until(what, holds, self.process)


@contextmanager
def serving(folder: Path, config: Path, *options: object, kill: bool = False) -> Iterator[Service]:
    """`darkroom serve-dicom` in a process of its own. At the end it is killed, or asked to stop, and must then end well."""
    spool, log = folder / "spool", folder / "serve-dicom.log"
    arguments = ["serve-dicom", "--listen", "127.0.0.1:0", "--spool", spool, "--model", "tiny", "--config", config, *options]
    with log.open("a") as stderr:
        command = [sys.executable, "-m", "darkroom", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
            try:
                assert process.stdout is not None
                ready = process.stdout.readline()
                assert ready.startswith("ready: DARKROOM@127.0.0.1:"), log.read_text()
                yield Service(process, int(ready.rsplit(":", 1)[1]), log, spool)
                if not kill:
                    process.terminate()
                    assert process.wait(DEADLINE_SECONDS) == 0, log.read_text()
            finally:
                process.kill()
