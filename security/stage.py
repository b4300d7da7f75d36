"""What one run of recorded parties is told: where recordings go, and what is broken on purpose.

A party is started by its module's name alone, so the stage reaches it and its workers through one environment variable.
"""

import enum
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "DARKROOM_SECURITY_STAGE"
ROLE_VARIABLE: Final = "DARKROOM_SECURITY_ROLE"  # which server a worker belongs to
_FILE: Final = "stage.json"


class Fault(enum.Enum):
    """What is broken in a twin."""

    NONE = "none"
    DROPPED = "mask dropped"  # dealer and workers take a = 0 (and b = 0) for every correlation
    REUSED = "mask reused"  # the dealer gives every session the seeds of the first
    CARELESS = "careless"  # server B logs, writes and passes on what it should keep
    DEVIATING = "deviating"  # server B adds an error to one opening, as `deviation.json` says


@dataclass(frozen=True)
class Stage:
    """One run: recordings go into `folder`."""

    folder: Path
    fault: Fault = Fault.NONE
    counted: bool = False  # workers write down every tensor operation

    @classmethod
    def from_environment(cls) -> "Stage":
        """The stage of this process. Raises KeyError where it was not started by `set_for_children`."""
        folder = Path(os.environ[VARIABLE])
        content = json.loads((folder / _FILE).read_text())
        return cls(folder, Fault(content["fault"]), content["counted"])

    @contextmanager
    def set_for_children(self) -> Generator[None]:
        """Inside the block, processes that we start find this stage."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"fault": self.fault.value, "counted": self.counted}
        (self.folder / _FILE).write_text(json.dumps(content))
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(self.folder)
        try:
            yield
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before
