"""`darkroom serve-dicom` between DCMTK's storescu and a PACS: Orthanc, and DCMTK's storescp."""

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from client.config import HospitalConfig
from darkroom.simulation import Simulation
from tests.integration.dicom_programs import (
    Service,
    dcmtk,
    echoes,
    free_port,
    orthanc,
    program,
    serving,
    storescp,
)
from tests.integration.held_objects import held_objects

pytestmark = pytest.mark.timeout(400)  # several programs, on a loaded machine
SOURCE = Path(get_testdata_file("CT_small.dcm"))
COLOUR = Path(get_testdata_file("SC_rgb_small_odd.dcm", download=False))


def send(service: Service, *files: Path) -> None:
    sent = dcmtk("storescu", "-aet", "CT1", "-aec", "DARKROOM", "127.0.0.1", service.port, *files)
    assert sent.returncode == 0, sent.stderr


def require_no_patient(text: str, source: Dataset) -> None:
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert str(source[keyword].value) not in text, keyword


def test_from_a_modality_through_darkroom_into_orthanc(cluster: Simulation, config: HospitalConfig, tmp_path: Path) -> None:
    program("storescu", "dcmtk")
    source = dcmread(SOURCE)
    before = held_objects(cluster, config)
    with orthanc(tmp_path / "orthanc") as pacs:
        options = ["--send-to", f"ORTHANC@127.0.0.1:{pacs.dicom_port}", "--allow-aet", "CT1", "--metrics", "127.0.0.1:0"]
        with serving(tmp_path, cluster.hospital_file, *options) as service:
            refused = dcmtk("storescu", "-aet", "STRANGER", "-aec", "DARKROOM", "127.0.0.1", service.port, SOURCE)
            assert refused.returncode != 0
            send(service, SOURCE)
            service.until("Orthanc has the result", lambda: len(pacs.get("/instances")) == 1)
            service.until("the spool is empty", lambda: service.waiting("outgoing") == 0)
            metrics = service.metrics()
        service.until("the delivery is logged", lambda: '"event": "delivered"' in service.log)
        (instance,) = pacs.get("/instances")
        tags = pacs.get(f"/instances/{instance}/simplified-tags")
    assert tags["StudyInstanceUID"] == source.StudyInstanceUID
    assert tags["PatientID"] == source.PatientID
    assert tags["SeriesInstanceUID"] != source.SeriesInstanceUID
    assert tags["SOPInstanceUID"] != source.SOPInstanceUID
    assert tags["ImageType"].startswith("DERIVED\\")
    assert "Darkroom" in tags["DerivationDescription"]
    assert sorted(path for path in service.spool.rglob("*") if path.is_file()) == [
        service.spool / name for name in (".lock", ".salt")
    ]
    assert held_objects(cluster, config) == before, "objects were left behind"
    assert "STRANGER" in service.log
    require_no_patient(service.log, source)
    for line in ("received_total 1.0", "denoised_total 1.0", "sent_total 1.0", "denoising_seconds_count 1.0"):
        assert f"darkroom_dicom_{line}\n" in metrics
    require_no_patient(metrics, source)


def test_a_destination_that_is_down_a_kill_and_an_object_in_colour(cluster: Simulation, tmp_path: Path) -> None:
    program("storescu", "dcmtk")
    port, received = free_port(), tmp_path / "received"
    source = dcmread(SOURCE)
    options = ["--send-to", f"PACS@127.0.0.1:{port}"]
    with serving(tmp_path, cluster.hospital_file, *options, kill=True) as service:
        assert echoes("DARKROOM", service.port)
        send(service, SOURCE, COLOUR)
        service.until("the result is kept", lambda: service.waiting("outgoing") == 1 and service.waiting("failed") == 1)
        service.until("the destination is missed", lambda: "cannot be reached" in service.log)
    (reason,) = (service.spool / "failed").glob("*.txt")
    assert "RGB" in reason.read_text()

    with storescp(received, port), serving(tmp_path, cluster.hospital_file, *options, "--forward-unsupported") as service:
        service.until("the result is delivered", lambda: service.waiting("outgoing") == 0)
        send(service, COLOUR)  # sent again, it is tried again: now it may go on as it is
        service.until("both have arrived", lambda: len(list(received.glob("[A-Z]*"))) == 2)
        service.until("the spool is empty", lambda: service.waiting("outgoing") + service.waiting("failed") == 0)
    found = {dataset.Modality: dataset for dataset in map(dcmread, received.iterdir())}
    result, colour = found["CT"], found["OT"]
    assert (result.StudyInstanceUID, result.Rows) == (source.StudyInstanceUID, source.Rows)
    assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert result.PixelData != source.PixelData
    assert colour.PixelData == dcmread(COLOUR).PixelData
    require_no_patient(service.log, source)
