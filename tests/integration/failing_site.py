"""Dealer, server A and server B as processes with a line between any two that talk: kill, restart, cut and stall them."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from client.config import HospitalConfig, load_config
from darkroom.child_processes import Children, children
from darkroom.provision import Site, provision
from darkroom.settings_files import Addresses, dealer_settings, hospital_settings, server_settings
from darkroom.simulation import LISTEN, MODULES
from proto.separation import SIMULATION
from tests.integration.line import Line

SILENCE_SECONDS: Final = 4.0  # a link on which nothing comes is given up; the deployed default is ten times that
DRAIN_SECONDS: Final = 1  # at the end: the dealer would wait for claims of sessions that a test has broken off
LINES: Final = ("client-a", "client-b", "peer", "dealer-a", "dealer-b")
WAIT_SECONDS: Final = 60.0
# What a held line lets through: more than comes before a result or an opening of an image of this side, far less than that.
HELD_BYTES: Final = 1 << 17
LARGE_SIDE: Final = 256


class FailingSite:
    """The three parties, restartable, each behind lines whose addresses stay the same."""

    def __init__(self, site: Site, processes: Children, silence_seconds: float) -> None:
        self.site = site
        self._processes = processes
        self._silence = silence_seconds
        self._killed: set[str] = set()
        self.lines = {name: Line() for name in LINES}
        for name in MODULES:
            self.start(name)
        hospital_settings(site, Addresses(self.lines["client-a"].address, self.lines["client-b"].address))
        for path in site.root.glob("*.toml"):
            text = path.read_text()
            path.write_text(text.replace("[hospital]\n", f'[hospital]\nsilence_seconds = "{silence_seconds}"\n'))

    @property
    def hospital_file(self) -> Path:
        return self.site.root / "hospital.toml"

    @property
    def config(self) -> HospitalConfig:
        return load_config(self.hospital_file)

    def addresses(self, name: str) -> list[str]:
        """Where others find a party: what an error must name one of."""
        return [line.address for line in self._leading_to(name)]

    def start(self, name: str) -> None:
        """Start a party, again perhaps, and lead its lines to it."""
        settings = {
            "dealer": lambda: dealer_settings(self.site, LISTEN, deployment=SIMULATION),
            "server-a": lambda: server_settings(
                self.site, name, LISTEN, dealer=self.lines["dealer-a"].address, deployment=SIMULATION
            ),
            "server-b": lambda: server_settings(
                self.site,
                name,
                LISTEN,
                dealer=self.lines["dealer-b"].address,
                leader=self.lines["peer"].address,
                deployment=SIMULATION,
            ),
        }[name]()
        limits = f'silence_seconds = "{self._silence}"\ndrain_seconds = {DRAIN_SECONDS}\n'
        settings.write_text(limits + settings.read_text())
        ready = self.site.folder(name) / {"dealer": "dealer.ready", "server-a": "a.ready", "server-b": "b.ready"}[name]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DARKROOM_LOG", "INFO")  # a command that runs in this process has it lower
            address = self._processes.start(name, MODULES[name], settings, self.site.logs / f"{name}.log", ready)
        self._killed.discard(name)
        for line in self._leading_to(name):
            line.repair(address)

    def kill(self, name: str) -> list[int]:
        """SIGKILL; then the lines do what the kernel of a dead process does. Returns the workers that it had."""
        self._killed.add(name)
        workers = self.workers(name)
        process = self._processes.names[name]
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # dead, and its status kept for whoever started it
        for line in self._leading_to(name):
            line.cut()
        return workers

    def _leading_to(self, name: str) -> list[Line]:
        names = {"dealer": ("dealer-a", "dealer-b"), "server-a": ("client-a", "peer"), "server-b": ("client-b",)}[name]
        return [self.lines[line] for line in names]

    def repair(self) -> None:
        """Start who was killed; every line passes everything on again."""
        for name in sorted(self._killed):  # the dealer first
            self.start(name)
        for line in self.lines.values():
            line.repair()

    def require_no_session(self, *servers: str) -> None:
        """Wait until none of these servers has a worker beside its nursery. Raises AssertionError."""
        for name in servers:
            wait_until(lambda name=name: len(self.workers(name)) <= 1, f"{name} keeps the worker of a session that is over")

    def workers(self, name: str) -> list[int]:
        """Process ids of a server's nursery and its workers."""
        return [process.pid for process in psutil.Process(self._processes.names[name]).children(recursive=True)]

    def require_ended(self, processes: list[int]) -> None:
        """Wait until none of these runs any more. Raises AssertionError."""
        wait_until(lambda: not any(map(runs, processes)), "a killed server's worker runs on")

    def wait_for_stored(self, expected: list[str]) -> None:
        """Wait until the stores hold just this. Raises AssertionError."""
        wait_until(lambda: self.stored() == expected, "a share, or a part of one, is left in a store")

    def wait_for_no_part(self) -> None:
        """Wait until no store holds a half-written file. Raises AssertionError."""
        wait_until(lambda: not list(self.site.root.glob("server-?/?.store/*/*.part")), "a half-written file is left in a store")

    def masks_opened(self) -> int:
        """How often the dealer has opened fresh masks of a model's weights."""
        return (self.site.logs / "dealer.log").read_text().count("push opened")

    def stored(self) -> list[str]:
        """What lies in both servers' stores of objects, half-written files included."""
        return sorted(
            f"{letter}/{path.name}"
            for letter in "ab"
            for path in self.site.root.glob(f"server-{letter}/{letter}.store/objects/*")
        )


def runs(process: int) -> bool:
    """Whether a process is there and does something: one that has ended may still have to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(happened: Callable[[], bool], otherwise: str) -> None:
    """What another process does in its own time. Raises AssertionError when it does not."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline, otherwise
        threading.Event().wait(0.05)


@contextlib.contextmanager
def failing_site(root: Path, silence_seconds: float = SILENCE_SECONDS) -> Iterator[FailingSite]:
    """Start everything, stop everything."""
    with children() as processes:
        running = FailingSite(provision(root), processes, silence_seconds)
        try:
            yield running
        finally:
            for line in running.lines.values():
                line.close()
