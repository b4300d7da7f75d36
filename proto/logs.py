"""Structured logs on standard error: one JSON object a line. Secrets are never passed to a logger."""

import logging
import os
import sys

import structlog


def configure_logs() -> None:
    """Level from DARKROOM_LOG (default INFO). Run once by each process's entry point."""
    level = logging.getLevelNamesMapping().get(os.environ.get("DARKROOM_LOG", "INFO").upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # of the moment, not of the start
    )
