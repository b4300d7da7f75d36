"""The command line, the local simulation and the demo. Starts servers and dealer as processes; imports neither."""

from typing import Final

__version__: Final = "0.1.0"
