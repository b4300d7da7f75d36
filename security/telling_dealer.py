"""`python -m security.telling_dealer --config FILE`: the dealer, colluding with the edge. Only for `security.edge_dealer`.

It is `dealer` as shipped and follows the protocol; beside that it writes every seed that it deals to `told.jsonl` in its own
folder. That is all a semi-honest dealer can add to what its edge sees: every mask is expanded from these seeds.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dealer.__main__ import main
from protocols import dealing
from protocols.identifiers import Role

FILE: Final = "told.jsonl"


def telling(deal: Callable[..., bytes], kind: str, path: Path) -> Callable[..., bytes]:
    """Wrap `dealing.session_seed` or `dealing.push_seed`: the same seed, and a line in the file."""

    def told(key: bytes, role: Role, identifier: Any = None, *rest: Any, **named: Any) -> bytes:
        seed = deal(key, role, *([] if identifier is None else [identifier]), *rest, **named)
        label = str(named["push"] if identifier is None else identifier)
        with path.open("a") as file:
            file.write(json.dumps({"kind": kind, "role": role.value, "id": label, "seed": seed.hex()}) + "\n")
        return seed

    return told


def tell_and_serve() -> None:
    """Entry point."""
    path = Path(sys.argv[sys.argv.index("--config") + 1]).with_name(FILE)
    dealing.session_seed = telling(dealing.session_seed, "session", path)
    dealing.push_seed = telling(dealing.push_seed, "push", path)
    main()


if __name__ == "__main__":
    tell_and_serve()
