"""A peer's process: its answers, its end, and its being late."""

import sys
from pathlib import Path
from time import monotonic

import pytest

from bench.parties import EngineError, Party, TooSlowError, ask_both

pytestmark = pytest.mark.integration

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def party(tmp_path: Path, script: str) -> Party:
    return Party("made up", [sys.executable, "-c", script], {}, tmp_path / "log")


def test_both_answer(tmp_path: Path) -> None:
    parties = [party(tmp_path, ECHO) for _ in range(2)]
    try:
        assert ask_both(parties, {"side": 32}, 30.0) == [{"side": 32}] * 2
    finally:
        for one in parties:
            one.close()


def test_who_is_late_is_too_slow(tmp_path: Path) -> None:
    late = party(tmp_path, "import time; time.sleep(60)")
    try:
        with pytest.raises(TooSlowError, match="made up"):
            late.answer(monotonic() + 0.1)
    finally:
        late.close()


def test_who_ends_leaves_the_end_of_its_log(tmp_path: Path) -> None:
    ended = party(tmp_path, "raise SystemExit('no such protocol')")
    try:
        with pytest.raises(EngineError, match="no such protocol"):
            ended.answer(monotonic() + 30.0)
    finally:
        ended.close()
