"""The memory of processes that pass messages on: a MiB at a time, hundreds of times in each evaluation.

glibc gives a freed message back to the system and has fresh pages zeroed for the next, which costs more than every copy of it
together: a stream of 374 MB took 0.4 s of a sender's and 0.5 s of a receiver's processor time, now 0.3 and 0.35 (a
script of two processes and one gRPC stream with TLS, not kept; 2 cores, 2026-11-28).

The price: what a freed message held, shares and openings among it, stays in the process's memory until something else is written
there, where most of it used to go back to the system. Nobody reads it who cannot read the process, which holds live shares too.
"""

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # of malloc.h
M_MMAP_THRESHOLD: Final = -3
LARGEST_BYTES: Final = 32 << 20  # glibc takes no more: anything larger still comes from the system and returns to it
KEPT_BYTES: Final = 32 << 20  # at the end of each thread's heap; the messages under way in one evaluation are fewer


def keep_heap() -> bool:
    """Keep KEPT_BYTES of freed memory at the end of each heap, and the holes before it; False where the C library is not glibc.

    For the whole process, from now on: run at its start by dealer and servers.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(name, size) == 1 for name, size in ((M_TRIM_THRESHOLD, KEPT_BYTES), (M_MMAP_THRESHOLD, LARGEST_BYTES))
    )
