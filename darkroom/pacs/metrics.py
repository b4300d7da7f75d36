"""Metrics of `darkroom serve-dicom`. What each one tells an operator: docs/operations.md. Nothing of a patient is a label."""

from enum import StrEnum
from functools import partial
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from darkroom.pacs.spool import Spool, Stage
from proto.metrics import ProgramMetrics

SECONDS: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 600.0, 1800.0)  # a small slice to a volume; beyond it: +Inf


class Refusal(StrEnum):
    """Why an image was not taken, for a label."""

    TOO_LARGE = "too large"
    NOT_KEPT = "not kept"  # the spool's bound is reached, or its disk fails


class PacsMetrics(ProgramMetrics):
    """Counts and times of one DICOM node, and what waits in its spool."""

    def __init__(self, spool: Spool) -> None:
        super().__init__("serve-dicom")
        registry = self.registry
        self.received: Final = Counter("darkroom_dicom_received", "Images taken, and on disk.", registry=registry)
        self._refused: Final = Counter(
            "darkroom_dicom_refused", "Images that were not taken, by reason.", ["reason"], registry=registry
        )
        self.denoised: Final = Counter("darkroom_dicom_denoised", "Images with a result.", registry=registry)
        self.unchanged: Final = Counter("darkroom_dicom_unchanged", "Images that go on as they came.", registry=registry)
        self._failed: Final = Counter(
            "darkroom_dicom_failed", "Images put aside, by the stage in which they were.", ["stage"], registry=registry
        )
        self.sent: Final = Counter("darkroom_dicom_sent", "Times that the destination took an image.", registry=registry)
        self.sending_failed: Final = Counter(
            "darkroom_dicom_sending_failed", "Times that it was out of reach, or refused one.", registry=registry
        )
        self.seconds: Final = Histogram(
            "darkroom_dicom_denoising_seconds", "From an image's turn to its result.", buckets=SECONDS, registry=registry
        )
        waiting = Gauge("darkroom_dicom_waiting", "Images in the spool, by stage.", ["stage"], registry=registry)
        for stage in (Stage.INCOMING, Stage.OUTGOING):
            waiting.labels(stage=stage.value).set_function(partial(spool.count, stage))
            self._failed.labels(stage=stage.value)  # shown from the start, with 0: a rate needs that
        for refusal in Refusal:
            self._refused.labels(reason=refusal.value)

    def refused(self, reason: Refusal) -> None:
        """Count one image that was not taken."""
        self._refused.labels(reason=reason.value).inc()

    def failed(self, stage: Stage) -> None:
        """Count one image that was put aside."""
        self._failed.labels(stage=stage.value).inc()

    def result(self, seconds: float) -> None:
        """Count one result. seconds: from the image's turn."""
        self.denoised.inc()
        self.seconds.observe(seconds)
