"""The dealer's metrics, beside those of every party. What each one tells an operator: docs/operations.md."""

from typing import Final

from prometheus_client import Counter, Histogram

from proto.metrics import PartyMetrics
from protocols.identifiers import Role

SECONDS: Final = (0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 600.0)


class DealerMetrics(PartyMetrics):
    """Counts, times and sizes of the dealer."""

    def __init__(self) -> None:
        super().__init__("dealer")
        registry = self.registry
        self.pushes: Final = Counter("darkroom_pushes_opened", "Sets of weight masks that were opened.", registry=registry)
        self.batches: Final = Counter("darkroom_material_opened", "Batches of session material, opened.", registry=registry)
        self.claims: Final = Counter(
            "darkroom_material_claimed", "Halves that were given out whole, by server.", ["role"], registry=registry
        )
        self.dealt_bytes: Final = Counter(
            "darkroom_dealt_bytes", "Seeds and corrections, by server.", ["role"], registry=registry
        )
        self.dealing_seconds: Final = Histogram(
            "darkroom_dealing_seconds", "From server B's claim to the last correction.", buckets=SECONDS, registry=registry
        )

    def claimed(self, role: Role, dealt: int, seconds: float) -> None:
        """Count one half that was given out whole."""
        self.claims.labels(role=role.value).inc()
        self.dealt_bytes.labels(role=role.value).inc(dealt)
        if role is Role.B:
            self.dealing_seconds.observe(seconds)
