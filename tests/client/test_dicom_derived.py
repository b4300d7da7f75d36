import pydicom
import pytest
import torch

from client.dicom_derived import Derivation
from client.images import read_image, read_stack, write_result
from protocols.errors import BadInputError
from tests.client.dicom_files import PROVENANCE, sample, small_ct, write, write_series, write_untouched
from tests.client.validators import iod_errors, parses, require_validators

GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "FrameOfReferenceUID")
IDENTITY = ("StudyInstanceUID", "PatientID", "StudyDate", "AcquisitionDate", "AccessionNumber", "InstanceNumber")


@pytest.fixture
def pair(tmp_path):
    """The small CT and its derived image."""
    path = sample("CT_small.dcm")
    return pydicom.dcmread(path), pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(path)))


def test_study_and_geometry_are_the_sources_and_instance_and_series_new(pair):
    source, found = pair
    for keyword in (*GEOMETRY, *IDENTITY):
        assert found.get(keyword) == source.get(keyword), keyword
    assert found.SOPInstanceUID != source.SOPInstanceUID
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    assert found.SeriesInstanceUID.startswith("2.25.")
    assert len(found.SeriesInstanceUID) <= 64


def test_it_says_what_was_done_from_what_by_what_and_when(pair):
    source, found = pair
    assert list(found.ImageType[:2]) == ["DERIVED", "PRIMARY"]
    assert found.DerivationDescription == str(PROVENANCE) == "Denoised by Darkroom: model base, sigma 25/255, engine crypten"
    (reference,) = found.SourceImageSequence
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (source.SOPClassUID, source.SOPInstanceUID)
    (purpose,) = reference.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("121322", "DCM")
    (equipment,) = found.ContributingEquipmentSequence
    assert equipment.Manufacturer == "Darkroom"
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109103"
    assert equipment.SoftwareVersions == "model base"
    for event in ("InstanceCreation", "Content", "Series"):
        assert found[f"{event}Date"].value == equipment.ContributionDateTime[:8] > source.StudyDate
        assert found[f"{event}Time"].value == equipment.ContributionDateTime[8:14]


def test_earlier_equipment_stays(tmp_path):
    item = pydicom.Dataset()
    item.Manufacturer = "Earlier"
    path = write(tmp_path / "in.dcm", small_ct(ContributingEquipmentSequence=[item]))
    found = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(path)))
    assert [item.Manufacturer for item in found.ContributingEquipmentSequence] == ["Earlier", "Darkroom"]


def test_extreme_values_and_signatures_of_the_source_go(tmp_path):
    dataset = small_ct(LargestPixelValueInSeries=1, SmallestPixelValueInSeries=0, DigitalSignaturesSequence=[pydicom.Dataset()])
    for tag in (0x00280106, 0x00280107, 0x00280108, 0x00280109):
        dataset[tag] = pydicom.DataElement(tag, "SS", 5)
    path = write(tmp_path / "in.dcm", dataset)
    assert "SmallestImagePixelValue" in pydicom.dcmread(path)
    found = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(path)))
    for keyword in ("ImagePixelValue", "PixelValueInSeries"):
        assert not [element.keyword for element in found if element.keyword.endswith(keyword)]
    assert "DigitalSignaturesSequence" not in found


def test_a_run_gives_each_series_one_new_series_and_another_run_another(tmp_path):
    run = Derivation.fresh()
    paths = [write(tmp_path / f"{n}.dcm", small_ct(SeriesInstanceUID=f"1.2.{n // 2}")) for n in range(4)]
    uids = [
        pydicom.dcmread(write_untouched(tmp_path / f"out{n}.dcm", read_stack(path), run)).SeriesInstanceUID
        for n, path in enumerate(paths)
    ]
    assert (uids[0], uids[2]) == (uids[1], uids[3])
    assert uids[0] != uids[2]
    other = pydicom.dcmread(write_untouched(tmp_path / "other.dcm", read_stack(paths[0])))
    assert other.SeriesInstanceUID not in uids


def test_an_enhanced_image_says_of_its_frames_too_that_they_are_derived(tmp_path):
    path = sample("eCT_Supplemental.dcm")
    source = pydicom.dcmread(path)
    found = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(path)))
    assert found.NumberOfFrames == source.NumberOfFrames == 2
    assert len(found.PerFrameFunctionalGroupsSequence) == 2
    types = [
        element.value[0].FrameType[0]
        for group in (*found.SharedFunctionalGroupsSequence, *found.PerFrameFunctionalGroupsSequence)
        for element in group
        if element.keyword.endswith("FrameTypeSequence")
    ]
    assert types
    assert set(types) == {"DERIVED"}
    (derivation,) = found.SharedFunctionalGroupsSequence[0].DerivationImageSequence
    assert derivation.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    evidence = found.SourceImageEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == source.SeriesInstanceUID


@pytest.mark.parametrize("anonymous", [False, True])
@pytest.mark.parametrize(
    "name",
    ["CT_small", "examples_overlay", "J2K_pixelrep_mismatch", "MR_small_RLE", "emri_small", "eCT_Supplemental"],
)
def test_validators_find_no_error_that_the_source_has_not(tmp_path, name, anonymous):
    require_validators()
    path = sample(f"{name}.dcm")
    out = write_untouched(tmp_path / "out.dcm", read_stack(path), Derivation.fresh(anonymous=anonymous))
    assert iod_errors(out) - iod_errors(path) == set()
    assert parses(out)


def test_the_validator_would_find_an_error(tmp_path):
    require_validators()
    dataset = pydicom.dcmread(write_untouched(tmp_path / "out.dcm", read_stack(sample("CT_small.dcm"))))
    dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = ""
    assert iod_errors(write(tmp_path / "broken.dcm", dataset)) - iod_errors(tmp_path / "out.dcm")


def test_the_validators_pass_every_slice_of_a_series(tmp_path):
    require_validators()
    folder = write_series(tmp_path / "series", count=2)
    write_untouched(tmp_path / "out", read_stack(folder))
    for path in folder.iterdir():
        assert iod_errors(tmp_path / "out" / f"{path.name}.dcm") - iod_errors(path) == set()


def test_planes_that_do_not_fit_the_header_are_refused(tmp_path):
    image = read_image(sample("CT_small.dcm"))
    with pytest.raises(BadInputError, match="the header says 1 of 128x128"):
        write_result(tmp_path / "out.dcm", torch.zeros(8, 8).double(), image.origin, PROVENANCE)
