"""Quantities as a user writes them: 512x512, 1Gbit, 20ms. Each parser raises BadInputError that says what is expected."""

import math
import re
from typing import Final

from protocols.errors import BadInputError

_SIZE: Final = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")
_NUMBER: Final = re.compile(r"(\d+(?:\.\d*)?)\s*([A-Za-z]+?)(?:/s|ps)?")
_BITS: Final = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise BadInputError(f"{text!r} is no size: expected height and width in pixels, such as 512x512")
    return int(found[1]), int(found[2])


def parse_bandwidth(text: str) -> float:
    """Bits per second."""
    return _scaled(text, _BITS, "bandwidth", "100Mbit or 1Gbit, for each direction")


def parse_delay(text: str) -> float:
    """Seconds."""
    return _scaled(text, _SECONDS, "time", "500us, 20ms or 0.1s", zero=True)


def _scaled(text: str, units: dict[str, float], what: str, examples: str, *, zero: bool = False) -> float:
    found = _NUMBER.fullmatch(text)
    unit = units.get(found[2].lower()) if found else None
    value = float(found[1]) * unit if found and unit else math.nan
    if not (value > 0 or (zero and value == 0)):
        raise BadInputError(f"{text!r} is no {what}: expected a number and one of {', '.join(units)}, such as {examples}")
    return value
