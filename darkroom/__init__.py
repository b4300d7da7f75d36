"""The command line, the local simulation and the demo. Starts servers and dealer as processes; imports neither."""

from proto.version import VERSION as __version__

__all__ = ["__version__"]
