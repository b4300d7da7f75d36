"""`python -m tests.integration.tiled_server --config FILE`: either server as shipped, but for a limit that cuts small images.

The role is the configuration's. Images of up to LIMIT_WORDS opened words stay whole: with the model of these tests, of 100x100
pixels.
"""

import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

from proto.party import Settings
from protocols import layer_costs
from protocols.identifiers import Role
from protocols.tiles import tiles_for
from server.process import run_server

LIMIT_WORDS = 50_000
small_tiles = partial(tiles_for, limit=LIMIT_WORDS)

if __name__ == "__main__":
    role = Role(Settings.load(Path(sys.argv[sys.argv.index("--config") + 1])).text("role"))
    with patch.object(layer_costs, "tiles_for", small_tiles):
        run_server(role)
