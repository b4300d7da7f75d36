"""One thread, and property tests that repeat: under CI the same examples every time, elsewhere new ones."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.darkroom_command import darkroom  # noqa: F401 - a fixture of all tests

torch.set_num_threads(1)
# Machines are noisy: how long an example takes says nothing about the code.
settings.register_profile("fresh", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("fresh"), derandomize=True, print_blob=True)
settings.load_profile("repeatable" if os.environ.get("CI") else "fresh")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What only runs from a clone (training, security) is left to `make test`: `make check` stays under a minute."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] in ("training", "security"):
            item.add_marker(pytest.mark.slow)
