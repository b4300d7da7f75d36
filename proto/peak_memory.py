"""How much memory a process has held, and holds for itself."""

import resource
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
STATUS: Final = Path("/proc/self/status")
PEAK: Final = "VmHWM:"
PRIVATE: Final = ("Private_Clean:", "Private_Dirty:")


def peak_memory_bytes() -> int:
    """The most resident memory that this process has held.

    Linux counts it for the program that runs now; what getrusage says, elsewhere used, begins at what the parent held when it
    started this process.
    """
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        lines = []
    kibibytes = [int(line.split()[1]) for line in lines if line.startswith(PEAK)]
    return (kibibytes[0] if kibibytes else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def private_memory_bytes(pid: int) -> int:
    """Resident memory that a process shares with no other, now; 0 where the system does not say."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(PRIVATE)) * 1024
