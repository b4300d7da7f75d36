"""One thread, and property tests that repeat: under CI the same examples every time, elsewhere new ones."""

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# Machines are noisy: how long an example takes says nothing about the code.
settings.register_profile("fresh", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("fresh"), derandomize=True, print_blob=True)
settings.load_profile("repeatable" if os.environ.get("CI") else "fresh")
