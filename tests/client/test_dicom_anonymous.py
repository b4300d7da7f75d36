import importlib

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from client.dicom_anonymous import CANNOT, anonymous_uid
from client.dicom_derived import Derivation
from client.images import check_output, read_image, read_stack
from protocols.errors import BadInputError, ConfigurationError
from tests.client.dicom_files import small_ct, write, write_series, write_untouched

CANARY = "ZQXCANARY"
DATE = "19771122"
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
TEXTS = (
    "PatientName PatientID PatientAddress PatientComments OtherPatientNames AccessionNumber ReferringPhysicianName"
    " InstitutionName InstitutionAddress StationName OperatorsName PerformingPhysicianName StudyDescription SeriesDescription"
    " ImageComments ProtocolName DeviceSerialNumber StudyID RequestingPhysician MedicalRecordLocator PatientMotherBirthName"
    " AdditionalPatientHistory DerivationDescription"
).split()
DATES = "PatientBirthDate StudyDate SeriesDate AcquisitionDate ContentDate InstanceCreationDate".split()


@pytest.fixture
def canaries(tmp_path):
    """A file with a canary in every place where a patient can be: names, dates, identifiers, private elements, nested items."""
    dataset = small_ct(**dict.fromkeys(TEXTS, CANARY), **dict.fromkeys(DATES, DATE))
    for uid in UIDS:
        setattr(dataset, uid, generate_uid())
    dataset.AcquisitionDateTime = f"{DATE}101112"
    block = dataset.private_block(0x0099, "DARKROOM TEST", create=True)
    block.add_new(1, "LO", CANARY)
    inner = Dataset()
    inner.PatientName, inner.StudyDate, inner.ReferencedSOPInstanceUID = CANARY, DATE, dataset.SOPInstanceUID
    outer = Dataset()
    outer.PatientID = CANARY
    outer.ReferencedSeriesSequence = [inner]
    dataset.RealWorldValueMappingSequence = [outer]  # a sequence that the profile does not know
    dataset.RequestAttributesSequence = [outer]
    dataset.ReferencedStudySequence = [inner]
    return write(tmp_path / "in.dcm", dataset)


def test_no_name_identifier_date_or_private_element_is_left(canaries, tmp_path):
    source = pydicom.dcmread(canaries)
    plain = write_untouched(tmp_path / "plain.dcm", read_stack(canaries)).read_bytes()
    found = write_untouched(tmp_path / "out.dcm", read_stack(canaries), Derivation.fresh(anonymous=True))
    content = found.read_bytes()
    forbidden = [CANARY.encode(), DATE.encode(), b"DARKROOM TEST", *(str(source[uid].value).encode() for uid in UIDS)]
    assert [needle for needle in forbidden[:3] if needle not in plain] == []  # the search finds them where they are
    assert [needle for needle in forbidden if needle in content] == []
    dataset = pydicom.dcmread(found)
    assert not [element for element in dataset.iterall() if element.tag.is_private]
    assert dataset.PatientIdentityRemoved == "YES"
    assert "PS3.15" in dataset.DeidentificationMethod
    assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert dataset.LongitudinalTemporalInformationModified == "REMOVED"
    assert dataset.DerivationDescription.startswith("Denoised by Darkroom")
    assert (dataset.pixel_array == source.pixel_array).all()
    assert (dataset.RescaleSlope, dataset.RescaleIntercept) == (source.RescaleSlope, source.RescaleIntercept)


def test_the_day_of_the_run_is_not_told(canaries, tmp_path):
    today = pydicom.dcmread(write_untouched(tmp_path / "plain.dcm", read_stack(canaries))).InstanceCreationDate
    found = write_untouched(tmp_path / "out.dcm", read_stack(canaries), Derivation.fresh(anonymous=True))
    assert today.encode() not in found.read_bytes()


def test_a_series_stays_a_series_within_a_run_and_nothing_links_two_runs(tmp_path):
    folder = write_series(tmp_path / "series", count=3)
    studies, series = set(), set()
    for number in range(2):
        write_untouched(tmp_path / f"out{number}", read_stack(folder), Derivation.fresh(anonymous=True))
        slices = [pydicom.dcmread(path) for path in (tmp_path / f"out{number}").iterdir()]
        for uid in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            assert len({str(dataset[uid].value) for dataset in slices}) == 1
        assert len({dataset.SOPInstanceUID for dataset in slices}) == 3
        assert all(dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID for dataset in slices)
        studies.add(slices[0].StudyInstanceUID)
        series.add(slices[0].SeriesInstanceUID)
    assert len(studies) == len(series) == 2


def test_references_inside_a_file_follow_the_new_identifiers(canaries, tmp_path):
    run = Derivation.fresh(anonymous=True)
    source = pydicom.dcmread(canaries)
    dataset = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(canaries), run))
    expected = anonymous_uid(source.SOPInstanceUID, run.salt)
    assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == expected
    assert dataset.RealWorldValueMappingSequence[0].ReferencedSeriesSequence[0].ReferencedSOPInstanceUID == expected


def test_text_in_the_pixels_is_refused_where_the_header_tells_and_told_where_it_does_not(tmp_path):
    image = read_image(write(tmp_path / "in.dcm", small_ct(BurnedInAnnotation="YES")))
    with pytest.raises(BadInputError, match="burned-in text"):
        check_output(tmp_path / "out.dcm", image.origin, anonymous=True)
    check_output(tmp_path / "out.dcm", image.origin)
    assert "burned into the pixels" in CANNOT
    assert "File names are not changed" in CANNOT
    assert ".darkroom-batch.jsonl" in CANNOT


def test_it_is_for_dicom_results_alone(tmp_path, image):
    with pytest.raises(BadInputError, match=r"is no DICOM.*not anonymised: a NIfTI result has its source's header"):
        check_output(tmp_path / "out.npy", image.origin, anonymous=True)


def test_a_missing_package_is_named_with_the_command_that_installs_it(canaries, tmp_path, monkeypatch):
    real = importlib.import_module

    def without(name, *arguments):
        if name.startswith("dicomanonymizer"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments)

    origin = read_image(canaries).origin
    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ConfigurationError, match=r"pip install 'darkroom\[anonymize\]'"):
        check_output(tmp_path / "out.dcm", origin, anonymous=True)
