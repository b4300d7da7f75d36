"""The peak is this process's own: not its parent's, and not what it holds now."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proto import peak_memory
from proto.peak_memory import peak_memory_bytes, private_memory_bytes

MIB = 1 << 20
CHILD = "from proto.peak_memory import peak_memory_bytes; print(peak_memory_bytes())"


@pytest.mark.skipif(not peak_memory.STATUS.exists(), reason="no /proc")
def test_a_childs_peak_does_not_begin_at_its_parents() -> None:
    held = b"\x01" * (256 * MIB)
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert int(child.stdout) < len(held) < peak_memory_bytes()


def test_a_peak_stays_when_the_memory_is_given_back() -> None:
    before = peak_memory_bytes()
    held = b"\x01" * (before + 64 * MIB)
    peak = peak_memory_bytes()
    assert peak >= len(held)
    del held
    assert peak_memory_bytes() > peak - MIB  # the kernel counts in batches


def test_without_proc_the_system_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peak_memory, "STATUS", tmp_path / "none")
    assert peak_memory_bytes() > 10 * MIB


@pytest.mark.skipif(not (peak_memory.PROC / "self" / "smaps_rollup").exists(), reason="no smaps_rollup")
def test_what_a_process_shares_with_its_fork_is_not_its_own() -> None:
    held = bytearray(b"\x01" * (128 * MIB))
    alone = private_memory_bytes(os.getpid())
    assert alone > len(held)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        shared = private_memory_bytes(os.getpid())
        assert shared < alone - 100 * MIB
        held[:] = b"\x02" * len(held)  # written to, so no longer shared
        assert private_memory_bytes(os.getpid()) > shared + 100 * MIB
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_the_system_does_not_say_is_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peak_memory, "PROC", tmp_path)
    assert private_memory_bytes(os.getpid()) == 0
