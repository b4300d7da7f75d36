"""`python -m security.unpadded_server --config FILE`: the twin of both servers, without output re-randomisation.

The role is the configuration's. Everything but the last step of an evaluation is the server as shipped.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Final
from unittest.mock import patch

from proto.party import Settings
from protocols.identifiers import Role
from server import process
from server.worker_pool import WorkerPool

WORKER: Final = "security.unpadded_worker"


def serve_unpadded() -> None:
    """Entry point."""
    settings = Settings.load(Path(sys.argv[sys.argv.index("--config") + 1]))
    with patch.object(process, "WorkerPool", partial(WorkerPool, WORKER)):
        process.run_server(Role(settings.text("role")))


if __name__ == "__main__":
    serve_unpadded()
