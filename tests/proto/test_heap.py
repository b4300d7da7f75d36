"""Messages that come and go find memory that is there, in a process of its own: the setting is the process's."""

import os
import platform
import subprocess
import sys

import pytest

ROUNDS, MESSAGES, PAGES = 20, 16, 256  # of a MiB each
PROGRAM = f"""
import ctypes
import resource
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages would hide what this counts
from proto.heap import keep_heap
KEEP
def rounds(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        messages = [bytearray(1 << 20) for _ in range({MESSAGES})]
        del messages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
rounds(2)
print(rounds({ROUNDS}))
"""


def faults(keep: str) -> int:
    """Pages that the system gave to all messages after the first."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM.replace("KEEP", keep)]
    run = subprocess.run(command, env=usual, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_messages_find_the_memory_of_those_before() -> None:
    assert faults("assert keep_heap()") < MESSAGES * PAGES  # of one round of the 20
    assert faults("") > ROUNDS * MESSAGES * PAGES / 2  # what it is for: without it, most rounds begin with fresh pages
