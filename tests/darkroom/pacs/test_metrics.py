"""What the DICOM node counts. No network but one endpoint on loopback, no waiting."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from darkroom.pacs import receiver
from darkroom.pacs.metrics import PacsMetrics
from darkroom.pacs.receiver import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, SUCCESS, Receiver
from darkroom.pacs.spool import Spool, open_spool
from proto.metrics import MetricsAddress, metrics_endpoint
from protocols.errors import BadInputError, BusyError, DarkroomError, IntegrityError, PeerUnavailableError, RemoteProtocolError
from tests.darkroom.pacs.test_lanes import Service

SPOOL_BYTES = 100
SECONDS = 60


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with open_spool(tmp_path / "spool", SPOOL_BYTES) as opened:
        yield opened


def shown(metrics: PacsMetrics) -> dict[str, float]:
    """Every count of the DICOM node that is not 0, without its prefix."""
    return {
        " ".join([sample.name.removeprefix("darkroom_dicom_"), *sample.labels.values()]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("darkroom_dicom_")
        and sample.value
        and not sample.name.endswith(("_bucket", "_created", "_sum"))
    }


def arrived(content: bytes) -> SimpleNamespace:
    requestor = SimpleNamespace(ae_title="CT1")
    return SimpleNamespace(assoc=SimpleNamespace(requestor=requestor), encoded_dataset=lambda: content)


def test_what_is_received_and_what_is_refused(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "MAX_FILE_BYTES", 2 * SPOOL_BYTES)
    metrics = PacsMetrics(spool)
    receiving = Receiver(spool, lambda: None, metrics)
    answers = [receiving.store(arrived(bytes(size))) for size in (10, SPOOL_BYTES, 2 * SPOOL_BYTES + 1)]
    assert answers == [SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND]
    expected = {"received_total": 1, "refused_total not kept": 1, "refused_total too large": 1, "waiting incoming": 1}
    assert shown(metrics) == expected


def test_from_received_to_sent(spool: Spool) -> None:
    service = Service(spool)
    spool.add(b"object")
    assert shown(service.metrics) == {"waiting incoming": 1}
    service.denoising.turn()
    assert shown(service.metrics) == {"denoised_total": 1, "denoising_seconds_count": 1, "waiting outgoing": 1}
    service.sending.turn()
    assert shown(service.metrics) == {"denoised_total": 1, "denoising_seconds_count": 1, "sent_total": 1}


@pytest.mark.parametrize("error", [BadInputError("x"), IntegrityError("x")])
def test_what_is_put_aside_instead_of_denoised(spool: Spool, error: DarkroomError) -> None:
    service = Service(spool)
    spool.add(b"object")
    service.errors = [error]
    service.denoising.turn()
    assert shown(service.metrics) == {"failed_total incoming": 1}


def test_what_waits_has_not_failed(spool: Spool) -> None:
    service = Service(spool)
    spool.add(b"object")
    service.errors = [BusyError("x")]
    service.denoising.turn()
    assert shown(service.metrics) == {"waiting incoming": 1}


def test_what_goes_on_as_it_came(spool: Spool) -> None:
    service = Service(spool, forward_unsupported=True)
    spool.add(b"object")
    service.errors = [BadInputError("x")]
    service.denoising.turn()
    service.sending.turn()
    assert shown(service.metrics) == {"unchanged_total": 1, "sent_total": 1}


def test_a_destination_that_is_down_and_then_refuses(spool: Spool) -> None:
    service = Service(spool)
    spool.add(b"object")
    service.denoising.turn()
    done = shown(service.metrics)
    service.refusals = [PeerUnavailableError("x"), BusyError("x"), RemoteProtocolError("x")]
    for _ in range(2):
        service.sending.turn()
    assert shown(service.metrics) == {**done, "sending_failed_total": 2}
    service.sending.turn()
    del done["waiting outgoing"]
    assert shown(service.metrics) == {**done, "sending_failed_total": 3, "failed_total outgoing": 1}


@pytest.mark.integration
def test_the_endpoint_shows_them_from_the_start(spool: Spool) -> None:
    spool.add(b"object")
    with metrics_endpoint(MetricsAddress("127.0.0.1", 0, "--metrics"), PacsMetrics(spool).registry) as address:
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=SECONDS).read().decode()  # noqa: S310
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["darkroom_build_info"].samples[0].labels["party"] == "serve-dicom"
    values = {(sample.name, *sample.labels.values()): sample.value for family in families.values() for sample in family.samples}
    assert values["darkroom_dicom_waiting", "incoming"] == 1
    assert values["darkroom_dicom_failed_total", "outgoing"] == 0
    assert values["darkroom_dicom_refused_total", "too large"] == 0
