"""`darkroom`, held in the middle of a command that is over in a moment, so that a signal arrives there on any machine.

`python -m tests.integration.held_darkroom FIFO MODULE FUNCTION COMMAND...`: the command's first call of MODULE's FUNCTION opens
FIFO, which takes until a test opens its other end, and then waits for what the test never writes.
"""

import importlib
import sys


def main() -> None:
    """Put the wait in the function's place, then be `darkroom`."""
    fifo, module, function, *arguments = sys.argv[1:]

    def hold(*_: object) -> None:
        with open(fifo, "rb") as held:
            held.read()

    setattr(importlib.import_module(module), function, hold)
    sys.argv = ["darkroom", *arguments]
    from darkroom.__main__ import main as darkroom

    darkroom()


if __name__ == "__main__":
    main()
