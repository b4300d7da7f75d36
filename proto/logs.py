"""Structured logs on standard error: JSON, one object a line; readable lines where standard error is a terminal.

Secrets are never passed to a logger. Events and their fields: docs/operations.md.
"""

import logging
import os
import sys
from typing import Any

import structlog


def configure_logs() -> None:
    """Level from DARKROOM_LOG (default INFO). Run once by each process's entry point."""
    level = logging.getLevelNamesMapping().get(os.environ.get("DARKROOM_LOG", "INFO").upper(), logging.INFO)
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # of the moment, not of the start
    )
