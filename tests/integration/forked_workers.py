"""Servers as they are shipped, but for one thing: their workers are forked from a process that has its imports already.

For tests of results, which run many sessions: a worker's start takes two seconds, and its code is the same. How workers start,
end and are killed is tested where they are started as shipped.
"""

import sys
from functools import partial

from protocols.identifiers import Role
from security.forked_worker import ForkedPool, nurse
from server import process

MODULE = "tests.integration.forked_workers"


def run_forked_server(role: Role) -> None:
    """As `server_a` and `server_b` do."""
    process.WorkerPool = partial(ForkedPool, MODULE)
    process.run_server(role)


if __name__ == "__main__":
    nurse(int(sys.argv[1]))
