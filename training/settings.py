"""The settings of a training run, read from a TOML file: network, patches, optimiser."""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from protocols.errors import ConfigurationError
from protocols.network import Network
from training.architecture import GatedShape
from training.dncnn import DncnnShape
from training.images import ImageSettings, PatchSettings
from training.noise import NoiseSettings

PRECISIONS: Final = ("float32", "bfloat16")


@dataclass(frozen=True)
class FitSettings:
    """How the weights are fitted."""

    seed: int = 1
    steps: int = 36000  # 0: as many as fit into cpu_minutes, see training.timing
    minutes: float = 35.0  # wall time over all parts of a run; when it is used up the run stops, resumable
    cpu_minutes: float = 0.0  # the same for CPU time, which a busy machine does not stretch; 0 sets no limit
    threads: int = 1
    precision: str = "float32"  # or bfloat16: convolutions in it, weights and sums in float32; 1.7 times as many steps here
    quiet_weight: float = 0.0  # exponent: how much more a patch with little noise counts, see training.fit.loss_of
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

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigurationError(f"[fit] precision {self.precision!r} is unknown; known are {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class PressureSettings:
    """What keeps wires small on any input: a penalty on those beyond a limit, on extreme images in [-1, 2]."""

    batch: int = 2
    side: int = 48  # about a receptive field
    limit: float = 16.0  # magnitude without penalty; ordinary images need no more
    climb: int = 0  # steps by the sign of the gradient that each image first takes towards larger wires
    strength: float = 20.0  # times the penalty's gradient is added; 0 presses not at all
    share: float = 1.0  # but no more than this times the loss's gradient, for each weight apart
    every: int = 1  # steps: every so many-th presses
    looked_at: int = 0  # images, every so often, for those that offend most; 0 looks for none
    look_every: int = 25  # steps
    kept: int = 16  # of those that were found; up to three in four of a step's images are taken from them in turn

    def __post_init__(self) -> None:
        if not (self.every >= 1 and self.look_every >= 1):
            raise ConfigurationError("[pressure] every and look_every must be at least 1")


@dataclass(frozen=True)
class ValidationSettings:
    """The check that selects the best weights."""

    sigma: float = 25.0
    slices: int = 10  # of each series
    seed: int = 7


@dataclass(frozen=True)
class Settings:
    """A whole configuration file."""

    images: ImageSettings = field(default_factory=ImageSettings)
    network: GatedShape | DncnnShape = field(default_factory=GatedShape)
    patches: PatchSettings = field(default_factory=PatchSettings)
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    fit: FitSettings = field(default_factory=FitSettings)
    pressure: PressureSettings = field(default_factory=PressureSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)

    def build_network(self) -> Network:
        """The network that these settings train."""
        return self.network.network()


Section = TypeVar(
    "Section", GatedShape, DncnnShape, PatchSettings, NoiseSettings, FitSettings, PressureSettings, ValidationSettings
)


def load_settings(path: Path) -> Settings:
    """Read a configuration. Raises ConfigurationError, which names the section and the wrong entry."""
    return settings_from(path, read_toml(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a configuration file. Raises ConfigurationError."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"cannot read the training configuration {path}: {error}") from error


def settings_from(path: Path, content: dict[str, Any]) -> Settings:
    """The settings in what `read_toml` gave; path is for messages. Raises ConfigurationError, as `load_settings`."""
    content = dict(content)
    settings = Settings(
        images=_images(path, content),
        network=_network(path, content),
        patches=_section(path, content, "patches", PatchSettings),
        noise=_section(path, content, "noise", NoiseSettings),
        fit=_section(path, content, "fit", FitSettings),
        pressure=_section(path, content, "pressure", PressureSettings),
        validation=_section(path, content, "validation", ValidationSettings),
    )
    content.pop("network", None)
    if content:
        raise ConfigurationError(f"{path}: unknown entries {', '.join(content)}")
    return settings


def _images(path: Path, content: dict[str, Any]) -> ImageSettings:
    names: dict[str, tuple[str, ...]] = {}
    for key in ("exclude", "only"):
        value = content.pop(key, [])
        if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise ConfigurationError(f"{path}: {key} must be a list of series names, not {value!r}")
        names[key] = tuple(value)
    every = content.pop("hold_back", 0)
    if type(every) is not int or every < 0 or every == 1:
        raise ConfigurationError(f"{path}: hold_back must be 0 or a whole number from 2, not {every!r}")
    return ImageSettings(names["exclude"], names["only"], every)


def _network(path: Path, content: dict[str, Any]) -> GatedShape | DncnnShape:
    """[network] with its family, "gated" where it is not named."""
    values = content.get("network", {})
    family = "gated"
    if isinstance(values, dict):
        values = dict(values)
        family = values.pop("family", family)
    content = content | {"network": values}
    match family:
        case "gated":
            return _section(path, content, "network", GatedShape)
        case "dncnn":
            return _section(path, content, "network", DncnnShape)
    raise ConfigurationError(f"{path}: [network] family must be gated or dncnn, not {family!r}")


def _section(path: Path, content: dict[str, Any], name: str, kind: type[Section]) -> Section:
    values = content.pop(name, {})
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: [{name}] must be a table, not {values!r}")
    types = {entry.name: entry.type for entry in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in types:
            raise ConfigurationError(f"{path}: [{name}] has no entry {key!r}; known are {', '.join(types)}")
        if types[key] is str:
            if not isinstance(value, str):
                raise ConfigurationError(f"{path}: [{name}] {key} must be a text, not {value!r}")
            continue
        good = (int, float) if types[key] is float else (int,)
        if not isinstance(value, good) or isinstance(value, bool) or value < 0:
            raise ConfigurationError(f"{path}: [{name}] {key} must be a number of at least 0, not {value!r}")
    return kind(**values)
