"""Which Darkroom this is, and which wire it speaks. All parties of an installation run the same of both."""

from typing import Final

VERSION: Final = "0.1.0"
WIRE_VERSION: Final = 2  # raised where a message or the order of messages changes: parties of two versions cannot work together
