"""Processes that we start end with us, in whichever way we end. The started module stands in for a server."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom import child_processes
from darkroom.child_processes import children
from protocols.errors import PeerUnavailableError

pytestmark = pytest.mark.integration

# Serves until SIGTERM or the end of its standard input, as servers and dealer do.
PARTY = """
    import json, os, pathlib, signal, sys
    ready = pathlib.Path(sys.argv[2]).with_suffix(".ready")
    ready.with_suffix(".tmp").write_text(json.dumps({"address": "127.0.0.1:7", "pid": os.getpid()}))
    ready.with_suffix(".tmp").rename(ready)
    sys.stdin.read()
"""
STUBBORN = (
    "    import signal\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    signal.signal(signal.SIGINT, signal.SIG_IGN)"
    + PARTY
)
DRAINING = """
    import signal, sys
    signals = []
    def count(*_):
        signals.append(1)
        if len(signals) == 2:
            sys.exit(0)
    signal.signal(signal.SIGTERM, count)
""" + PARTY.replace("sys.stdin.read()", "[signal.pause() for _ in range(9)]")
FAILING = """
    import sys
    sys.exit("the reason is this")
"""

Party = Callable[[str], tuple[str, Path, Path, Path]]


@pytest.fixture
def party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Party:
    """Write a module that stands in for a server; gives module name, configuration, log and ready file."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(source: str) -> tuple[str, Path, Path, Path]:
        (tmp_path / "stand_in.py").write_text(textwrap.dedent(source))
        return "stand_in", tmp_path / "x.toml", tmp_path / "x.log", tmp_path / "x.ready"

    return write


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("error", [None, PeerUnavailableError("x"), KeyboardInterrupt()])
def test_stopped_at_the_end(party: Party, error: BaseException | None) -> None:
    pids = []
    ending = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with ending, children() as group:
        for name in ("one", "two"):
            assert group.start(name, *party(PARTY)) == "127.0.0.1:7"
        pids += group.names.values()
        if error is not None:
            raise error
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_an_interruption_while_a_process_is_started_leaves_none(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when the process is there and we do not know it yet."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def interrupted(*arguments: object, **options: object) -> "subprocess.Popen[bytes]":
        started.append(popen(*arguments, **options))  # type: ignore[call-overload]
        signal.raise_signal(signal.SIGINT)
        return started[0]

    module = party("import time\ntime.sleep(600)")
    monkeypatch.setattr(child_processes.subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt), children() as group:
        group.start("one", *module)
    assert gone(started[0].pid)


def test_the_stubborn_are_killed(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_processes, "DRAIN_SECONDS", 0.2)
    monkeypatch.setattr(child_processes, "GRACE_SECONDS", 0.3)
    with children() as group:
        group.start("stubborn", *party(STUBBORN))
        pid = group.names["stubborn"]
    assert gone(pid)


def test_who_drains_for_long_is_told_a_second_time(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server with an evaluation under way: it ends by itself, with its own exit status, and is not killed."""
    monkeypatch.setattr(child_processes, "DRAIN_SECONDS", 0.5)
    monkeypatch.setattr(child_processes, "GRACE_SECONDS", 60.0)
    with children() as group:
        group.start("draining", *party(DRAINING))
        (child,) = group._children
    assert child.popen.returncode == 0


def test_why_it_failed_is_told(party: Party) -> None:
    with (
        pytest.raises(PeerUnavailableError, match="(?s)server A stopped with exit status 1.*the reason is this"),
        children() as group,
    ):
        group.start("server A", *party(FAILING))


def test_never_ready(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_processes, "READY_SECONDS", 0.5)
    with pytest.raises(PeerUnavailableError, match="was not ready"), children() as group:
        group.start("server A", *party("import sys\nsys.stdin.read()"))


def test_an_end_while_serving_is_noticed(party: Party) -> None:
    with children() as group:
        group.start("server B", *party(PARTY))
        group.require_alive()
        os.kill(group.names["server B"], signal.SIGKILL)
        with pytest.raises(PeerUnavailableError, match="server B stopped with exit status -9"):
            group.wait()
        with pytest.raises(PeerUnavailableError):
            group.require_alive()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_orphans_when_we_are_killed(party: Party, tmp_path: Path, number: signal.Signals) -> None:
    """Even SIGKILL: the children's standard input ends."""
    module, config, log, ready = party(PARTY)
    program = f"""
        from pathlib import Path
        from darkroom.child_processes import children
        with children() as group:
            group.start("one", {module!r}, Path({str(config)!r}), Path({str(log)!r}), Path({str(ready)!r}))
            print(group.names["one"], flush=True)
            group.wait()
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        parent.send_signal(number)
        parent.wait(20)
        assert select.select([watch], [], [], 20)[0], "the child is still there"
        os.close(watch)
