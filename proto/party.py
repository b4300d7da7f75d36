"""What every listening party (server A, server B, dealer) has: a TOML file, an identity, pinned callers, a listener."""

import json
import os
import resource
import select
import signal
import stat
import sys
import threading
import tomllib
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from proto import darkroom_pb2_grpc as rpc
from proto.description import PartyService
from proto.transport import SILENCE_SECONDS, Callers, Identity, Peer, checked_silence, listener_credentials, listener_options
from protocols.errors import ConfigurationError

GRACE_SECONDS: Final = 5.0  # calls under way at shutdown get this long


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
        value: Any = self.values
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise ConfigurationError(f"{self.path}: {'.'.join(keys)} must be a string")
        return value

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


def serve(settings: Settings, add_services: Callable[[grpc.Server, Callers], None], *, threads: int) -> None:
    """Listen until SIGTERM, SIGINT, or, where asked for on the command line, until standard input ends.

    Writes the ready file (advertised address, else the one bound, and process id) once calls are answered, and removes it at
    the end.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write keys and shares to a disk
    callers = settings.callers()
    options = listener_options(settings.silence_seconds())
    server = grpc.server(futures.ThreadPoolExecutor(threads, thread_name_prefix="call"), options=options)
    add_services(server, Callers(callers))
    store = settings.resolve(settings.text("store")) if "store" in settings.values else None
    rpc.add_PartyServicer_to_server(PartyService(Callers(callers), callers, store), server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    listen = settings.text("listen", default="127.0.0.1:0")
    credentials = listener_credentials(settings.identity(), callers.values())
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ConfigurationError(f"cannot listen on {listen}: is the address ours, and the port free?") from error
    server.start()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ready = settings.resolve(settings.text("ready_file", default="ready.json"))
    _write_ready(ready, settings.text("advertised", default=f"{listen.rsplit(':', 1)[0]}:{port}"))
    if "--exit-on-stdin-eof" in sys.argv:
        threading.Thread(target=_watch_stdin, args=(stop,), daemon=True).start()
    stop.wait()
    ready.unlink(missing_ok=True)
    checks.enter_graceful_shutdown()
    server.stop(GRACE_SECONDS).wait()


def _write_ready(path: Path, address: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"address": address, "pid": os.getpid()}))
    temporary.replace(path)


def _watch_stdin(stop: threading.Event) -> None:
    """Set `stop` when the process that started us has gone: its end of our standard input closes."""
    descriptor = sys.stdin.fileno()
    while True:
        select.select([descriptor], [], [])
        if not os.read(descriptor, 4096):
            stop.set()
            return
