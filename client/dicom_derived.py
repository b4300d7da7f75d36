"""DICOM out: a derived image of a new series, in the study and geometry of its source.

Uncompressed, Explicit VR Little Endian. New are instance and series, with their dates; the study, the frame of reference, the
geometry, the modality and VOI transformations, and the history of lossy compression stay. A pixel whose stored value does not
change keeps its Hounsfield units exactly, because the rescale is the source's.
Source: DICOM PS3.3 2024e, C.7.6.1 (derived images), C.7.6.1.1.5 (lossy history), C.12.1.1.5 (contributing equipment),
C.7.6.16.2.6 (derivation of frames), C.9.2 (overlays); PS3.16, CID 7202 and 7005.
"""

import copy
import hashlib
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, generate_uid
from torch import Tensor

from client.dicom import PIXEL_DATA, parsing, serialise_header, texts
from client.dicom_anonymous import anonymise
from client.dicom_pixels import PixelForm, drop_dataless_overlays, pixel_form, words_of
from client.origin import Origin, Provenance
from protocols.errors import BadInputError
from protocols.unpicklable import Unpicklable

SALT_BYTES: Final = 16
MAX_PIXEL_BYTES: Final = (1 << 32) - 2  # the length of PixelData has 32 bits (PS3.5, 7.1.2)
# Of the source's pixels or of the file as it was; wrong or void for a derived image.
_DROPPED: Final = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "SmallestImagePixelValueInPlane",
    "LargestImagePixelValueInPlane",
    "HistogramSequence",
    "IconImageSequence",
    "MACParametersSequence",
    "DigitalSignaturesSequence",
    "OriginalAttributesSequence",
    "EncryptedAttributesSequence",
    "DataSetTrailingPadding",
    "SourceImageEvidenceSequence",
)
# How the source was acquired. An enhanced MR image may say so only where it is an original (PS3.3, C.8.13.4); a derived one
# refers to its source, which says it.
_ACQUISITION_OF_MR: Final = (
    "PulseSequenceName",
    "MRAcquisitionType",
    "EchoPulseSequence",
    "MultipleSpinEcho",
    "MultiPlanarExcitation",
    "PhaseContrast",
    "TimeOfFlightContrast",
    "SteadyStatePulseSequence",
    "EchoPlanarPulseSequence",
    "SaturationRecovery",
    "SpectrallySelectedSuppression",
    "OversamplingPhase",
    "GeometryOfKSpaceTraversal",
    "RectilinearPhaseEncodeReordering",
    "SegmentedKSpaceTraversal",
    "CoverageOfKSpace",
    "NumberOfKSpaceTrajectories",
    "BulkMotionCompensationTechnique",
)
SOURCE_IMAGE: Final = ("121322", "Source image for image processing operation")
SMOOTHING: Final = ("113087", "Smoothing")  # the nearest that CID 7203 has
MODIFYING_EQUIPMENT: Final = ("109103", "Modifying Equipment")


@dataclass(frozen=True, eq=False)
class Derivation(Unpicklable):
    """One run, over one file or many: it gives each source series one new series.

    The same salt gives the same series again, so a run that is continued after an interruption fills the series that it began.
    """

    salt: bytes = field(repr=False)
    anonymous: bool = False

    @classmethod
    def fresh(cls, *, anonymous: bool = False) -> "Derivation":
        return cls(secrets.token_bytes(SALT_BYTES), anonymous)

    def series_uid(self, source: str) -> str:
        """The new series of a source series: a UUID-derived UID (PS3.5, B.2) from salt and source."""
        digest = hashlib.sha256(self.salt + source.encode()).digest()
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def derived_dicom(
    planes: Sequence[Tensor],
    origins: Sequence[Origin],
    provenance: Provenance,
    derivation: Derivation,
    *,
    now: datetime | None = None,
) -> bytes:
    """A derived image with the source's header, new identifiers and these planes: all frames of one file. Run by the edge.

    Pixels are rounded and clipped to the stored range; padding comes back as it was. Overlays that have their own OverlayData
    stay, since the plane is the same; those hidden in unused pixel bits (retired in 2004) go, because these bits are now zero. A
    thumbnail, extreme values, a histogram and digital signatures of the source go too.
    Raises BadInputError: the header does not fit the pixels, or an anonymous result is asked for and cannot be had.
    """
    source = origins[0].dataset
    if source is None:
        raise BadInputError("a DICOM result needs a DICOM source: name the output .npy or .png")
    with parsing(Path(origins[0].name)):
        dataset = copy.deepcopy(source)
        form = pixel_form(dataset, origins[0].name)
        found = {tuple(plane.shape) for plane in planes}
        if (form.frames, {(form.rows, form.columns)}) != (len(planes), found):
            raise BadInputError(
                f"the result has {len(planes)} planes of {sorted(found)}, the header says {form.frames} of"
                f" {form.rows}x{form.columns}"
            )
        if form.frames * form.rows * form.columns * form.allocated // 8 > MAX_PIXEL_BYTES:
            raise BadInputError(f"{form.frames} frames of {form.rows}x{form.columns} are more than a DICOM file can hold")
        enhanced_mr = dataset.SOPClassUID == EnhancedMRImageStorage
        for keyword in (*_DROPPED, *(_ACQUISITION_OF_MR if enhanced_mr else ())):
            if keyword in dataset:
                delattr(dataset, keyword)
        drop_dataless_overlays(dataset)
        _describe(dataset, source, provenance, derivation, datetime.now() if now is None else now)
        _set_pixels(dataset, planes, origins, form)
        if derivation.anonymous:
            anonymise(dataset, derivation.salt)
            _describe_anonymous(dataset, provenance)
        return serialise_header(dataset)


def _describe(dataset: Dataset, source: Dataset, provenance: Provenance, derivation: Derivation, now: datetime) -> None:
    """Whose image it is, what was done to it, when and by what."""
    date, time = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    # Every image is of a series; one that does not say of which is a series by itself.
    dataset.SeriesInstanceUID = derivation.series_uid(str(source.get("SeriesInstanceUID", source.SOPInstanceUID)))
    dataset.ImageType = _derived_type(dataset)
    dataset.DerivationDescription = str(provenance)[:1024]
    description = str(dataset.get("SeriesDescription") or "")
    dataset.SeriesDescription = f"{description[:40]} denoised (Darkroom)".strip()
    for event in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, f"{event}Date", date)
        setattr(dataset, f"{event}Time", time)
    if "InstanceCreatorUID" in dataset:
        del dataset.InstanceCreatorUID
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    reference.PurposeOfReferenceCodeSequence = [code(SOURCE_IMAGE)]
    dataset.SourceImageSequence = [reference]
    dataset.ContributingEquipmentSequence = [
        *(dataset.get("ContributingEquipmentSequence") or []),
        equipment(provenance, f"{date}{time}"),
    ]
    _describe_frames(dataset, source, reference, provenance)


def _describe_anonymous(dataset: Dataset, provenance: Provenance) -> None:
    """What the profile removes because it may be about the patient, and here is about the program alone. Not when it ran."""
    dataset.DerivationDescription = str(provenance)[:1024]
    dataset.SeriesDescription = "denoised (Darkroom)"
    dataset.ContributingEquipmentSequence = [equipment(provenance, "")]


def _derived_type(item: Dataset, keyword: str = "ImageType") -> list[str]:
    return ["DERIVED", "PRIMARY", *texts(item.get(keyword))[2:]]


def _describe_frames(dataset: Dataset, source: Dataset, reference: Dataset, provenance: Provenance) -> None:
    """An enhanced image says of its frames, too, that they are derived, and from what."""
    shared = dataset.get("SharedFunctionalGroupsSequence")
    if not shared:
        return
    groups = [*shared, *(dataset.get("PerFrameFunctionalGroupsSequence") or [])]
    for group in groups:
        for element in list(group):
            if element.VR == "SQ" and element.keyword.endswith("FrameTypeSequence"):
                for item in element.value:
                    item.FrameType = _derived_type(item, "FrameType")
        if "DerivationImageSequence" in group:
            del group.DerivationImageSequence
    derivation = Dataset()
    derivation.DerivationDescription = str(provenance)[:1024]
    derivation.DerivationCodeSequence = [code(SMOOTHING)]
    derivation.SourceImageSequence = [copy.deepcopy(reference)]
    shared[0].DerivationImageSequence = [derivation]
    series = Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    plain = Dataset()
    plain.ReferencedSOPClassUID, plain.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    series.ReferencedSOPSequence = [plain]
    study = Dataset()
    study.StudyInstanceUID = source.StudyInstanceUID
    study.ReferencedSeriesSequence = [series]
    dataset.SourceImageEvidenceSequence = [study]


def equipment(provenance: Provenance, when: str) -> Dataset:
    """What contributed: this program."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code(MODIFYING_EQUIPMENT)]
    item.Manufacturer = "Darkroom"
    item.ManufacturerModelName = f"denoising on secret shares, engine {provenance.engine}"[:64]
    item.SoftwareVersions = [f"model {provenance.model}"[:64]]
    item.ContributionDescription = str(provenance)[:1024]
    if when:
        item.ContributionDateTime = when
    return item


def code(pair: tuple[str, str]) -> Dataset:
    """One item of a code sequence: value and meaning in DICOM's own scheme."""
    item = Dataset()
    item.CodeValue, item.CodeMeaning = pair
    item.CodingSchemeDesignator = "DCM"
    return item


def _set_pixels(dataset: Dataset, planes: Sequence[Tensor], origins: Sequence[Origin], form: PixelForm) -> None:
    pixels = b"".join(words_of(origin.to_values(plane), form, origin.kept) for plane, origin in zip(planes, origins, strict=True))
    dataset.HighBit = form.stored - 1
    dataset[PIXEL_DATA] = pydicom.DataElement(PIXEL_DATA, "OB" if form.allocated == 8 else "OW", pixels + bytes(len(pixels) % 2))
