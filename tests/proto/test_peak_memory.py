"""The peak is this process's own: not its parent's, and not what it holds now."""

import subprocess
import sys
from pathlib import Path

import pytest

from proto import peak_memory
from proto.peak_memory import peak_memory_bytes

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
