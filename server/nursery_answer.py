"""What a nursery answers to each request on its control socket: a kind and a number, with a pidfd where a worker was forked."""

import struct
from typing import Final

ANSWER: Final = struct.Struct("<cQ")
FORKED: Final = b"f"  # with a pidfd of the worker; the number: the most resident memory that the nursery has held, in bytes
FAILED: Final = b"-"  # no worker is left of the request; the number: errno of what the system did not give
