"""gRPC health that tells ready from alive.

Service "" is alive: SERVING as long as the listener answers. The party's own name ("darkroom.Server", "darkroom.Dealer") is
ready: SERVING while new work would be taken and could be done, which needs the peers that this party calls. A asks the dealer;
B asks A and the dealer; the dealer calls nobody. Each asks only whether the other is alive, so no two wait for each other.
"""

import threading
from time import monotonic
from typing import Any, Final, Protocol

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from proto.metrics import PartyMetrics
from proto.status import calling
from protocols.errors import DarkroomError, PeerUnavailableError

ALIVE: Final = ""
SERVER: Final = "darkroom.Server"
DEALER: Final = "darkroom.Dealer"
PROBE_SECONDS: Final = 4.0  # two peers asked in turn stay under what `doctor` waits
FRESH_SECONDS: Final = 1.0  # whoever asks more often gets the last answer
WATCH_SECONDS: Final = 5.0

log = structlog.get_logger("readiness")


class Hosted(Protocol):
    """What a party's listener needs to know of the services on it."""

    @property
    def health_name(self) -> str:
        """The name that stands for readiness."""

    @property
    def metrics(self) -> PartyMetrics:
        """The party's counters, in a registry of their own."""

    def require_ready(self) -> None:
        """Raises PeerUnavailableError saying what is missing."""

    def drain(self) -> None:
        """Begin nothing more; what is under way goes on."""

    def wait_idle(self, seconds: float) -> bool:
        """Wait for the last call under way to end; whether it has."""


def require_alive(channel: grpc.Channel, name: str) -> None:
    """Ask a peer's listener. Raises PeerUnavailableError."""
    with calling(name, "whether it is alive"):
        request = health_pb2.HealthCheckRequest(service=ALIVE)
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=PROBE_SECONDS).status
    if status != health_pb2.HealthCheckResponse.SERVING:
        raise PeerUnavailableError(f"{name} answers, but is stopping")


class Readiness(health.HealthServicer):
    """The health service of one party; asks for itself when it is asked, and every few seconds for those who watch."""

    def __init__(self, hosted: Hosted) -> None:
        super().__init__()
        self._hosted = hosted
        self._asking = threading.Lock()
        self._telling = threading.Lock()  # apart: a party that stops does not wait for a peer's answer
        self._asked = -FRESH_SECONDS
        self._draining = threading.Event()
        self._problem: str | None = "not asked yet"
        self.set(hosted.health_name, health_pb2.HealthCheckResponse.NOT_SERVING)
        self.set(ALIVE, health_pb2.HealthCheckResponse.SERVING)

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """As gRPC defines it; readiness is found out now."""
        if request.service == self._hosted.health_name:
            self.refresh()
        return super().Check(request, context)

    def refresh(self) -> None:
        """Find out whether this party is ready, unless that was done a moment ago."""
        with self._asking:
            if self._draining.is_set() or monotonic() - self._asked < FRESH_SECONDS:
                return
            try:
                self._hosted.require_ready()
                problem = None
            except DarkroomError as error:
                problem = str(error)
            self._asked = monotonic()
            with self._telling:
                if not self._draining.is_set():
                    self._tell(problem)

    def watch(self) -> None:
        """Find out again and again, in a thread of its own, until the party drains."""
        threading.Thread(target=self._watch, name="readiness", daemon=True).start()

    def _watch(self) -> None:
        self.refresh()
        while not self._draining.wait(WATCH_SECONDS):
            self.refresh()

    def drain(self) -> None:
        """Not ready from here on; still alive."""
        self._draining.set()
        with self._telling:
            self._set(ready=False)

    def _set(self, *, ready: bool) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        self.set(self._hosted.health_name, serving)
        self._hosted.metrics.ready.set(ready)

    def _tell(self, problem: str | None) -> None:
        self._set(ready=problem is None)
        if problem != self._problem:
            if problem is None:
                log.info("ready")
            else:
                log.warning("not ready", reason=problem)
        self._problem = problem
