"""Processes that end with us: started in their own session, watched, and stopped in every way that we can end.

Three layers against orphans. Normally we send SIGTERM, wait, and send SIGTERM again (which ends a party at once) and then
SIGKILL to the whole process group. A child's standard
input is the read end of a pipe whose write end only we hold, and it was told to stop when that ends: so it stops if we
are killed without a chance to say so. And being in its own session it does not see the terminal's Ctrl-C, which is ours.
Assumes POSIX.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from darkroom.uninterrupted import ENDING, uninterrupted
from protocols.errors import ConfigurationError, PeerUnavailableError

READY_SECONDS: Final = 120.0  # a cold start reads torch and CrypTen from disk: 3 s here, far more on a slow disk
LOOK_SECONDS: Final = 0.05  # how often a ready file, or a signal, is looked for, while the wait itself is on a process's exit
DRAIN_SECONDS: Final = 5.0  # for evaluations under way; a second SIGTERM then ends a party at once
GRACE_SECONDS: Final = 8.0  # and who is still there then is killed
TAIL_LINES: Final = 12


@dataclass(frozen=True)
class Child:
    """One process that we started."""

    name: str
    popen: "subprocess.Popen[bytes]" = field(repr=False)
    log: Path

    def tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return "\n".join(lines[-TAIL_LINES:]) or "(its log is empty)"

    def ended(self) -> PeerUnavailableError:
        """What to raise when it has ended by itself."""
        return PeerUnavailableError(
            f"{self.name} stopped with exit status {self.popen.returncode}; the end of {self.log}:\n{self.tail()}"
        )


class Children:
    """The processes of one simulation, in order of start."""

    def __init__(self, stdin: int) -> None:
        """stdin: read end of the pipe whose end tells them that we are gone."""
        self._stdin = stdin
        self._children: list[Child] = []

    @property
    def names(self) -> dict[str, int]:
        """Process ids by name."""
        return {child.name: child.popen.pid for child in self._children}

    def start(self, name: str, module: str, config: Path, log: Path, ready: Path) -> str:
        """Start `python -m module` and wait until it serves. Returns its address.

        Raises PeerUnavailableError: it ended, or was not ready in time. ConfigurationError: it cannot be started.
        """
        ready.unlink(missing_ok=True)
        # -P: the folder we happen to be in is not searched for modules.
        command = [sys.executable, "-P", "-m", module, "--config", str(config), "--exit-on-stdin-eof"]
        try:
            # A Ctrl-C between the start of a process and our knowing it would leave an orphan.
            with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as stderr, uninterrupted():
                popen = subprocess.Popen(  # noqa: S603 - our own module, no shell
                    command, stdin=self._stdin, stdout=stderr, stderr=stderr, start_new_session=True, env=_environment()
                )
                child = Child(name, popen, log)
                self._children.append(child)
        except OSError as error:
            raise ConfigurationError(f"cannot start {name}: {error}") from error
        return _wait_until_ready(child, ready)

    def require_alive(self) -> None:
        """Raises PeerUnavailableError: one of them has ended."""
        for child in self._children:
            if child.popen.poll() is not None:
                raise child.ended()

    def wait(self) -> None:
        """Block until one of them ends by itself. Raises PeerUnavailableError then."""
        ended: SimpleQueue[Child] = SimpleQueue()

        def watch(child: Child) -> None:
            child.popen.wait()
            ended.put(child)

        for child in self._children:
            threading.Thread(target=watch, args=(child,), daemon=True).start()
        while True:
            try:  # in turns: a signal that the system gives to another thread does not wake one that waits without end
                raise ended.get(timeout=LOOK_SECONDS).ended()
            except Empty:
                continue

    def stop(self) -> None:
        """SIGTERM to all, again to those that drain for long, SIGKILL to the groups of those that outlast the grace.

        All are reaped.
        """
        started = time.monotonic()
        running = [child for child in reversed(self._children) if child.popen.poll() is None]
        for child in running:
            child.popen.terminate()
        for child in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.popen.wait(max(0.0, started + DRAIN_SECONDS - time.monotonic()))
        for child in running:
            child.popen.terminate()  # nothing to one that has ended
        deadline = started + GRACE_SECONDS
        for child in running:
            try:
                child.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.popen.pid, signal.SIGKILL)
                child.popen.wait()


@contextlib.contextmanager
def children() -> Generator[Children]:
    """Start processes inside the block; at its end, however it ends, all of them are stopped."""
    reader, writer = os.pipe()
    group = Children(reader)
    try:
        yield group
    finally:
        with _unhurried():
            group.stop()
            os.close(writer)
            os.close(reader)


@contextlib.contextmanager
def _unhurried() -> Generator[None]:
    """Ignore a second Ctrl-C while we stop: stopping is bounded in time, and an impatient user would leave orphans."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_until_ready(child: Child, ready: Path) -> str:
    """Wait on the process's exit in short turns and look for its ready file in between."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.popen.wait(LOOK_SECONDS)
            raise child.ended()
        with contextlib.suppress(FileNotFoundError):
            stated = json.loads(ready.read_text())  # written whole, by a rename
            return str(stated["address"])
    raise PeerUnavailableError(f"{child.name} was not ready after {READY_SECONDS:.0f} s; the end of {child.log}:\n{child.tail()}")


def _environment() -> dict[str, str]:
    """Ours, and where the packages are: the child must find them from any folder, installed or not."""
    packages = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}
