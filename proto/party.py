"""What every listening party (server A, server B, dealer) has: a TOML file, an identity, pinned callers, a listener."""

import json
import os
import resource
import select
import signal
import stat
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc

from proto import darkroom_pb2_grpc as rpc
from proto.description import PartyService
from proto.metrics import MetricsAddress, metrics_address, metrics_endpoint
from proto.readiness import Hosted, Readiness
from proto.transport import SILENCE_SECONDS, Callers, Identity, Peer, checked_silence, listener_credentials, listener_options
from proto.writable import writing
from protocols.errors import ConfigurationError

DRAIN_SECONDS: Final = 60.0  # calls under way at shutdown get this long: a 512x512 image, many times over
MAX_DRAIN_SECONDS: Final = 3600.0
LOOK_SECONDS: Final = 0.2  # how often a second signal is looked for while the party drains
LAST_WORDS_SECONDS: Final = 2.0  # after the last call: what was sent is on its way, health checks end

log = structlog.get_logger("party")


@dataclass(frozen=True)
class Settings:
    """A parsed TOML file whose paths are relative to its folder."""

    path: Path
    values: dict[str, Any] = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """Raises ConfigurationError where the file is missing or no TOML."""
        try:
            return cls(path, tomllib.loads(path.read_text()))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"cannot read the configuration {path}: {error}") from error

    def text(self, *keys: str, default: str | None = None) -> str:
        """A string value. Raises ConfigurationError naming the key."""
        value = self._value(keys, default)
        if not isinstance(value, str):
            raise ConfigurationError(f"{self.path}: {'.'.join(keys)} must be a string")
        return value

    def number(self, *keys: str, default: float, low: float, high: float) -> float:
        """A number in [low, high]. Raises ConfigurationError naming the key."""
        value = self._value(keys, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigurationError(f"{self.path}: {'.'.join(keys)} must be a number from {low:g} to {high:g}, not {value!r}")
        return value

    def flag(self, *keys: str) -> bool:
        """True or false; false where it is absent. Raises ConfigurationError naming the key."""
        value = self._value(keys, False)
        if not isinstance(value, bool):
            raise ConfigurationError(f"{self.path}: {'.'.join(keys)} must be true or false")
        return value

    def _value(self, keys: tuple[str, ...], default: Any) -> Any:
        value: Any = self.values
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return default if value is None else value

    def table(self, key: str) -> dict[str, str]:
        """A table of strings. Raises ConfigurationError."""
        value = self.values.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise ConfigurationError(f"{self.path}: [{key}] must be a table of strings")
        return value

    def resolve(self, name: str) -> Path:
        """A path from the file, relative to the file's folder."""
        return self.path.parent / name

    def public_file(self, name: str) -> bytes:
        """Contents of a public file. Raises ConfigurationError."""
        try:
            return self.resolve(name).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot read {name}: {error.strerror}") from error

    def secret_file(self, name: str) -> bytes:
        """Contents of a secret file. Raises ConfigurationError, also where others may read it."""
        path = self.resolve(name)
        contents = self.public_file(name)
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(f"{path} can be read by others; run: chmod 600 {path}")
        return contents

    def identity(self) -> Identity:
        """The party's own certificate and private key."""
        return Identity(
            self.public_file(self.text("identity", "certificate")),
            self.secret_file(self.text("identity", "private_key")),
        )

    def peer(self, name: str, section: str) -> Peer:
        """A peer that this party calls: [section] address, certificate."""
        certificate = self.public_file(self.text(section, "certificate"))
        return Peer(name, self.text(section, "address"), certificate, self.silence_seconds())

    def silence_seconds(self) -> float:
        """How long a link may be silent before it is given up. Raises ConfigurationError."""
        return checked_silence(self.text("silence_seconds", default=str(SILENCE_SECONDS)), f"{self.path}: silence_seconds")

    def callers(self) -> dict[str, bytes]:
        """Pinned certificates of those who may call, by identity name."""
        return {name: self.public_file(file) for name, file in self.table("peers").items()}

    def metrics(self) -> MetricsAddress | None:
        """Where metrics are shown: [metrics] listen, allow_remote. None where nothing is said. Raises ConfigurationError."""
        if "metrics" not in self.values:
            return None
        return metrics_address(self.text("metrics", "listen"), allow_remote=self.flag("metrics", "allow_remote"))


class StopSignals:
    """SIGTERM or SIGINT once: stop in order. Twice: at once."""

    def __init__(self) -> None:
        self.stop: Final = threading.Event()
        self.at_once: Final = threading.Event()

    def install(self) -> None:
        """Run by the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.request())

    def wait(self) -> None:
        """Until the first signal.

        In turns: Python runs a handler in the main thread alone, and a signal that the system gives to another thread does not
        wake one that waits without end.
        """
        while not self.stop.wait(LOOK_SECONDS):
            pass

    def request(self) -> None:
        """As one more signal."""
        if self.stop.is_set():
            self.at_once.set()
        self.stop.set()


def serve(settings: Settings, add_services: Callable[[grpc.Server, Callers], Hosted], *, threads: int) -> None:
    """Listen until SIGTERM, SIGINT, or, where asked for on the command line, until standard input ends; then drain.

    Draining: not ready any more, nothing new is begun, what is under way has `drain_seconds` to end; a second signal ends it.
    Writes the ready file (advertised address, else the one bound, process id, and where metrics are) once calls are answered,
    and removes it at the end. Raises ConfigurationError: it cannot start.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write keys and shares to a disk
    drain_seconds = settings.number("drain_seconds", default=DRAIN_SECONDS, low=0.0, high=MAX_DRAIN_SECONDS)
    metrics = settings.metrics()
    callers = settings.callers()
    options = listener_options(settings.silence_seconds())
    server = grpc.server(futures.ThreadPoolExecutor(threads, thread_name_prefix="call"), options=options)
    hosted = add_services(server, Callers(callers))
    store = settings.resolve(settings.text("store")) if "store" in settings.values else None
    rpc.add_PartyServicer_to_server(PartyService(Callers(callers), callers, store), server)
    health = Readiness(hosted)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    listen = settings.text("listen", default="127.0.0.1:0")
    credentials = listener_credentials(settings.identity(), callers.values())
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ConfigurationError(f"cannot listen on {listen}: is the address ours, and the port free?") from error
    ready = ready_file(settings)
    with writing(ready, "the ready file"):
        ready.unlink(missing_ok=True)  # of a run that was killed: until we answer, nobody does
    with metrics_endpoint(metrics, hosted.metrics.registry) as shown:
        server.start()
        signals = StopSignals()
        signals.install()
        address = f"{listen.rsplit(':', 1)[0]}:{port}"
        try:
            _write_ready(ready, settings.text("advertised", default=address), shown)
        except ConfigurationError:
            server.stop(0).wait()
            raise
        health.watch()
        log.info("serving", address=address, metrics=shown)
        if "--exit-on-stdin-eof" in sys.argv:
            threading.Thread(target=_watch_stdin, args=(signals,), daemon=True).start()
        signals.wait()
        _remove_ready(ready)
        health.drain()
        hosted.drain()
        log.info("draining", seconds=drain_seconds)
        started = time.monotonic()
        idle = _wait_idle(hosted, signals, drain_seconds)
        server.stop(LAST_WORDS_SECONDS if idle else 0).wait()
        log.info("stopped", idle=idle, seconds=round(time.monotonic() - started, 3))


def _wait_idle(hosted: Hosted, signals: StopSignals, seconds: float) -> bool:
    """Whether the calls under way have ended, in time and before a second signal."""
    deadline = time.monotonic() + seconds
    while not hosted.wait_idle(LOOK_SECONDS):
        if signals.at_once.is_set() or time.monotonic() >= deadline:
            return False
    return True


def ready_file(settings: Settings) -> Path:
    """Where a party says that it serves. Raises ConfigurationError."""
    return settings.resolve(settings.text("ready_file", default="ready.json"))


def _write_ready(path: Path, address: str, metrics: str | None) -> None:
    temporary = path.with_suffix(".tmp")
    stated = {"address": address, "pid": os.getpid()} | ({"metrics": metrics} if metrics else {})
    with writing(path, "the ready file"):
        temporary.write_text(json.dumps(stated))
        temporary.replace(path)


def _remove_ready(path: Path) -> None:
    """At the end. What is under way ends well even where the disk fails by then."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("ready file stays", reason=error.strerror)


def _watch_stdin(signals: StopSignals) -> None:
    """Stop at once when the process that started us has gone: its end of our standard input closes."""
    descriptor = sys.stdin.fileno()
    while True:
        select.select([descriptor], [], [])
        if not os.read(descriptor, 4096):
            signals.request()
            signals.request()
            return
