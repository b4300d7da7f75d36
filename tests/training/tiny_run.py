"""The configuration of a training run that takes seconds, on the images of `conftest.py`."""

_CONFIG = """
exclude = ["licensed"]
[network]
channels = 4
blocks = 1
[patches]
batch = 2
side = 16
[fit]
steps = 2
warmup_steps = 1
{fit}
[pressure]
batch = 1
side = 16
climb = 1
[validation]
slices = 1
"""


def tiny_config(fit: str = "") -> str:
    """TOML. fit: further entries of [fit]."""
    return _CONFIG.format(fit=fit)
