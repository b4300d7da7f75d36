"""What a user may say of how an image is stored and evaluated, and of how its result is written."""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from client.dicom_derived import Derivation
from client.grants import parse_window
from protocols.packing import PackingMode


@dataclass(frozen=True)
class StoreOptions:
    """How an image is stored, and its result written. sigmas in units of the normalised range; None: estimated, or the default.

    One for a whole run: the files of one series then become one series again.
    """

    packing: str
    packing_sigma: float | None
    sigma: float | None
    window: str | None
    key: Path | None
    derivation: Derivation = field(default_factory=Derivation.fresh)
    engine: str = ""  # the servers choose

    @property
    def mode(self) -> PackingMode:
        return PackingMode(self.packing)

    @property
    def duration(self) -> timedelta | None:
        """Raises BadInputError."""
        return None if self.window is None else parse_window(self.window)
