"""Prometheus metrics that every program has, and every party, and the plain HTTP endpoint that shows them.

Nothing secret and nothing of a patient: labels take their values from the enumerations of this code alone, never an identifier,
a name that a caller chose, or an address. The endpoint listens on loopback unless the operator says otherwise, because it has
no TLS and no caller is asked who it is.
"""

import ipaddress
import platform
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector, start_http_server

from proto.version import VERSION
from protocols.errors import (
    AccessDenied,
    BadInputError,
    BusyError,
    ConfigurationError,
    DarkroomError,
    PeerUnavailableError,
)

PARTY_SETTING: Final = "[metrics] listen"  # in the file of a server or the dealer


class CallOutcome(StrEnum):
    """How a call ended, for a label."""

    OK = "ok"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"  # a peer was out of reach or broke off, or this party shuts down
    REFUSED = "refused"  # input, identity or configuration
    FAILED = "failed"  # the protocol was broken
    CANCELLED = "cancelled"  # the caller has gone
    BUG = "bug"


_OUTCOMES: Final[tuple[tuple[type[DarkroomError], CallOutcome], ...]] = (
    (BusyError, CallOutcome.BUSY),
    (PeerUnavailableError, CallOutcome.UNAVAILABLE),
    (BadInputError, CallOutcome.REFUSED),
    (AccessDenied, CallOutcome.REFUSED),
    (ConfigurationError, CallOutcome.REFUSED),
)


def outcome_of(error: DarkroomError) -> CallOutcome:
    """The outcome that an error stands for; the first class that it is an instance of decides."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), CallOutcome.FAILED)


class ProgramMetrics:
    """What every program shows, in a registry of its own."""

    def __init__(self, party: str) -> None:
        """party: "server A", "server B", "dealer" or "serve-dicom"."""
        self.registry: Final = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        build = Info("darkroom_build", "Version and party.", registry=self.registry)
        build.info({"version": VERSION, "python": platform.python_version(), "party": party})


class PartyMetrics(ProgramMetrics):
    """Metrics of a server or of the dealer."""

    def __init__(self, party: str) -> None:
        super().__init__(party)
        self.ready: Final = Gauge("darkroom_ready", "1 when new work is taken.", registry=self.registry)
        self.calls: Final = Counter(
            "darkroom_calls", "Calls that have ended, by kind and outcome.", ["call", "outcome"], registry=self.registry
        )
        self.busy: Final = Counter("darkroom_busy_refusals", "Calls refused for want of a place.", registry=self.registry)
        self.under_way: Final = Gauge("darkroom_calls_under_way", "Calls that hold a place now.", registry=self.registry)

    def ended(self, call: str, outcome: CallOutcome) -> None:
        """Count one call. call: the method's name."""
        self.calls.labels(call=call, outcome=outcome.value).inc()
        if outcome is CallOutcome.BUSY:
            self.busy.inc()


@dataclass(frozen=True)
class MetricsAddress:
    """Where the endpoint listens. Port 0: any. setting: what says so, for messages."""

    host: str
    port: int
    setting: str = PARTY_SETTING


def metrics_address(
    listen: str, *, allow_remote: bool, setting: str = PARTY_SETTING, allowing: str = "set allow_remote = true"
) -> MetricsAddress:
    """Check the setting. Raises ConfigurationError: not HOST:PORT, or not loopback where that was not allowed.

    allowing: how the operator says that it is, for the message.
    """
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"{setting} must be HOST:PORT, such as 127.0.0.1:9464, not {listen!r}")
    if not (allow_remote or _loopback(host)):
        raise ConfigurationError(
            f"{setting} = {listen!r} can be reached from other machines, without TLS: listen on 127.0.0.1,"
            f" or {allowing} where the network protects it"
        )
    return MetricsAddress(host, int(port), setting)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def metrics_endpoint(address: MetricsAddress | None, registry: CollectorRegistry) -> Generator[str | None]:
    """Serve the metrics inside the block; gives HOST:PORT, or None where there is no endpoint. Raises ConfigurationError."""
    if address is None:
        yield None
        return
    try:
        server, thread = start_http_server(address.port, addr=address.host, registry=registry)
    except OSError as error:
        raise ConfigurationError(
            f"cannot serve metrics on {address.host}:{address.port}: {error.strerror or error}; set another {address.setting}"
        ) from error
    try:
        yield f"{address.host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
