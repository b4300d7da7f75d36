"""The settings of a training run, read from a TOML file: network, patches, optimiser."""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from protocols.errors import ConfigurationError
from protocols.network import Network
from training.architecture import GatedShape, gated_network
from training.images import PatchSettings


@dataclass(frozen=True)
class FitSettings:
    """How the weights are fitted."""

    seed: int = 1
    steps: int = 36000
    minutes: float = 35.0  # wall time over all parts of a run; when it is used up the run stops, resumable
    threads: int = 1
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    warmup_steps: int = 500
    weight_decay: float = 1e-4
    clip_norm: float = 0.5
    average_decay: float = 0.999
    explosion_factor: float = 10.0  # a loss this many times the usual one is not learned from
    bad_steps: int = 5  # this many in a row, and the last checkpoint is restored at half the learning rate
    max_restores: int = 6
    log_every: int = 100
    checkpoint_every: int = 500
    validate_every: int = 1000


@dataclass(frozen=True)
class PressureSettings:
    """What keeps wires small on any input: a penalty on those beyond a limit, on extreme images in [-1, 2]."""

    batch: int = 4
    side: int = 32  # a receptive field
    limit: float = 8.0  # magnitude without penalty; ordinary images need no more
    strength: float = 0.02


@dataclass(frozen=True)
class ValidationSettings:
    """The check that selects the best weights."""

    sigma: float = 25.0
    slices: int = 10  # of each series
    seed: int = 7


@dataclass(frozen=True)
class Settings:
    """A whole configuration file."""

    exclude: tuple[str, ...] = ()
    network: GatedShape = field(default_factory=GatedShape)
    patches: PatchSettings = field(default_factory=PatchSettings)
    fit: FitSettings = field(default_factory=FitSettings)
    pressure: PressureSettings = field(default_factory=PressureSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)

    def build_network(self) -> Network:
        """The network that these settings train."""
        return gated_network(self.network)


Section = TypeVar("Section", GatedShape, PatchSettings, FitSettings, PressureSettings, ValidationSettings)


def load_settings(path: Path) -> Settings:
    """Read a configuration. Raises ConfigurationError, which names the section and the wrong entry."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"cannot read the training configuration {path}: {error}") from error
    exclude = content.pop("exclude", [])
    if not (isinstance(exclude, list) and all(isinstance(name, str) for name in exclude)):
        raise ConfigurationError(f"{path}: exclude must be a list of series names, not {exclude!r}")
    settings = Settings(
        exclude=tuple(exclude),
        network=_section(path, content, "network", GatedShape),
        patches=_section(path, content, "patches", PatchSettings),
        fit=_section(path, content, "fit", FitSettings),
        pressure=_section(path, content, "pressure", PressureSettings),
        validation=_section(path, content, "validation", ValidationSettings),
    )
    if content:
        raise ConfigurationError(f"{path}: unknown entries {', '.join(content)}")
    return settings


def _section(path: Path, content: dict[str, Any], name: str, kind: type[Section]) -> Section:
    values = content.pop(name, {})
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: [{name}] must be a table, not {values!r}")
    types = {entry.name: entry.type for entry in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in types:
            raise ConfigurationError(f"{path}: [{name}] has no entry {key!r}; known are {', '.join(types)}")
        good = (int, float) if types[key] is float else (int,)
        if not isinstance(value, good) or isinstance(value, bool) or value < 0:
            raise ConfigurationError(f"{path}: [{name}] {key} must be a number of at least 0, not {value!r}")
    return kind(**values)
