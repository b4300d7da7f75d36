"""A server's metrics, beside those of every party. What each one tells an operator: docs/operations.md."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from proto.metrics import PartyMetrics
from protocols.identifiers import Role
from server.share_store import ShareStore
from server.turns import TurnQueue

SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 600.0)  # a tile to a radiograph; beyond it: +Inf


class ServerMetrics(PartyMetrics):
    """Counts, times and sizes of one server."""

    def __init__(self, role: Role, turns: TurnQueue, objects: ShareStore) -> None:
        super().__init__(f"server {role.value}")
        registry = self.registry
        self.wait_seconds: Final = Histogram(
            "darkroom_wait_seconds", "What sessions waited whose turn began.", buckets=SECONDS, registry=registry
        )
        self.evaluation_seconds: Final = Histogram(
            "darkroom_evaluation_seconds",
            "The turn of an evaluation that succeeded, less waiting.",
            buckets=SECONDS,
            registry=registry,
        )
        self.offline_seconds: Final = Histogram(
            "darkroom_offline_seconds", "Of it, before the image was needed.", buckets=SECONDS, registry=registry
        )
        self.online_seconds: Final = Histogram(
            "darkroom_online_seconds", "Of it, with the image.", buckets=SECONDS, registry=registry
        )
        self.sent_bytes: Final = Counter("darkroom_opened_bytes", "Opened wires sent to the other server.", registry=registry)
        self.dealt_bytes: Final = Counter("darkroom_dealt_bytes", "Material received from the dealer.", registry=registry)
        self.worker_restarts: Final = Counter(
            "darkroom_worker_restarts", "Warm workers that ended by themselves and were replaced.", registry=registry
        )
        self.maskings: Final = Counter("darkroom_maskings", "Times that a model's weights were masked.", registry=registry)
        Gauge("darkroom_queue_limit", "Places: one evaluates, the others wait.", registry=registry).set(turns.capacity)
        Gauge("darkroom_queue_length", "Sessions that wait.", registry=registry).set_function(lambda: turns.waiting)
        Gauge("darkroom_evaluating", "1 while a session's turn goes on.", registry=registry).set_function(lambda: turns.busy)
        Gauge("darkroom_stored_objects", "Objects stored.", registry=registry).set_function(lambda: objects.usage()[0])
        Gauge("darkroom_store_bytes", "Their bytes on disk.", registry=registry).set_function(lambda: objects.usage()[1])

    def evaluated(
        self, seconds: float, offline_seconds: float, online_seconds: float, *, sent_bytes: int, dealt_bytes: int
    ) -> None:
        """Count one evaluation. seconds: from the beginning of its turn to the result, less waiting."""
        self.evaluation_seconds.observe(seconds)
        self.offline_seconds.observe(offline_seconds)
        self.online_seconds.observe(online_seconds)
        self.sent_bytes.inc(sent_bytes)
        self.dealt_bytes.inc(dealt_bytes)
