"""The local simulation: a dealer, server A and server B as three processes on this machine, with mutual TLS on every link.

It protects nothing: one machine that holds all shares can put them together. It is for trying, testing and demonstrating.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from darkroom import settings_files
from darkroom.child_processes import Children, children
from darkroom.provision import Site, provision
from darkroom.settings_files import Addresses, dealer_settings, hospital_settings, server_settings
from proto.separation import SIMULATION
from protocols.errors import ConfigurationError, DarkroomError

LISTEN: Final = "127.0.0.1:0"  # any free port, for this machine only
MODULES: Final[Mapping[str, str]] = {"dealer": "dealer", "server-a": "server_a", "server-b": "server_b"}

Tell = Callable[[str], None]
Route = Callable[[str, str, str], str]  # who dials, whom, and where that one listens: the address to dial


def direct(dialler: str, listener: str, address: str) -> str:
    """No detour."""
    return address


@dataclass(frozen=True)
class Simulation:
    """A running simulation."""

    site: Site
    addresses: Addresses
    processes: Children

    @property
    def client_file(self) -> Path:
        return self.site.root / settings_files.CLIENT_FILE

    @property
    def edge_file(self) -> Path:
        return self.site.root / settings_files.EDGE_FILE

    @property
    def hospital_file(self) -> Path:
        return self.site.root / settings_files.HOSPITAL_FILE

    @property
    def model_owner_file(self) -> Path:
        return self.site.root / settings_files.MODEL_OWNER_FILE


@contextlib.contextmanager
def simulation(
    root: Path,
    *,
    tell: Tell,
    modules: Mapping[str, str] = MODULES,
    metrics: str | None = None,
    route: Route = direct,
) -> Generator[Simulation]:
    """Provision `root` where needed, start everything, stop everything at the end. Existing keys and stores are kept.

    tell: is given a line for each step. modules: what is started for each party; an evaluation may
    record or break one. metrics: where each party shows its metrics, such as LISTEN; None: nowhere. route: how the servers reach
    each other and the dealer; a benchmark puts a line with a rate and a delay in between.
    Raises ConfigurationError: the folder is in use or cannot be written.
    PeerUnavailableError: a process did not come up, or (in place of the error that it caused) ended by itself.
    """
    site = provision(root)
    with _sole_user(site.root), children() as processes:
        settings = dealer_settings(site, LISTEN, deployment=SIMULATION, metrics=metrics)
        dealer = _start(processes, site, "dealer", modules["dealer"], settings)
        tell(f"dealer listens on {dealer}")

        def told(name: str, leader: str | None = None) -> Path:
            way = route(name, "dealer", dealer)
            return server_settings(site, name, LISTEN, dealer=way, leader=leader, deployment=SIMULATION, metrics=metrics)

        server_a = _start(processes, site, "server-a", modules["server-a"], told("server-a"))
        tell(f"server A listens on {server_a}")
        settings_b = told("server-b", leader=route("server-b", "server-a", server_a))
        server_b = _start(processes, site, "server-b", modules["server-b"], settings_b)
        tell(f"server B listens on {server_b}")
        addresses = Addresses(server_a, server_b)
        hospital_settings(site, addresses)
        try:
            yield Simulation(site, addresses, processes)
        except DarkroomError:
            processes.require_alive()
            raise


def shipped_models() -> list[Path]:
    """The model files that come with Darkroom."""
    folder = resources.files("darkroom") / "models"
    return sorted(Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".safetensors"))


def find_model(name: str) -> Path:
    """A shipped model by name, or any model by its file. Raises ConfigurationError."""
    if name.endswith(".safetensors"):
        return Path(name)
    shipped = {path.stem: path for path in shipped_models()}
    if name not in shipped:
        raise ConfigurationError(
            f"no model {name!r} comes with Darkroom; there are: {', '.join(shipped) or 'none'}. A file ends in .safetensors"
        )
    return shipped[name]


def _start(processes: Children, site: Site, name: str, module: str, config: Path) -> str:
    ready = {"dealer": "dealer.ready", "server-a": "a.ready", "server-b": "b.ready"}[name]
    return processes.start(name, module, config, site.logs / f"{name}.log", site.folder(name) / ready)


@contextlib.contextmanager
def _sole_user(root: Path) -> Generator[None]:
    """Hold the folder for this process: two simulations in one folder would share stores and overwrite each other's files."""
    try:
        descriptor = os.open(root / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{root} cannot be written: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigurationError(f"{root} is in use by another simulation: stop that one, or choose another folder") from error
    try:
        yield
    finally:
        os.close(descriptor)
