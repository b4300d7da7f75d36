"""Headers without a patient: the basic profile of DICOM PS3.15 2026c, Annex E (table E.1-1), applied to a result.

The table and the actions are the package dicom-anonymizer's. It applies them to the outermost level alone, so here they are
applied to every item of every sequence too; a date that the profile removes is removed, and one that must stay becomes
1900-01-01, where the package would put the year 1, which validators refuse; and a UID becomes one that follows from the run and
the UID, so that a series, a study and what refers to them stay together within a run, and in no other.
What this cannot do is in `CANNOT`: the profile is about attributes, and this module never looks at a pixel.
"""

import hashlib
import importlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydicom.dataset import Dataset

from client.dicom_pixels import drop_dataless_overlays
from protocols.errors import BadInputError, ConfigurationError

TABLE: Final = "dicomfields_2026c"
METHOD: Final = "DICOM PS3.15 2026c, Annex E, basic profile (dicom-anonymizer)"
PROFILE: Final = ("113100", "Basic Application Confidentiality Profile")
INSTALL: Final = "pip install 'darkroom[anonymize]'"
CANNOT: Final = (
    "removed names, dates, identifiers and private elements from the header (PS3.15 Annex E, basic profile). It cannot see text"
    " that is burned into the pixels, or a face that a head scan shows: look at the image before it leaves the hospital."
    " File names are not changed either, and the .darkroom-batch.jsonl of a folder's results holds the sources' names and what"
    " links replaced UIDs to them: keep it in the hospital"
)
_DUMMIES: Final = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}
_Action = Callable[[Dataset, tuple[int, int]], None]
_Rules = Mapping[tuple[int, ...], _Action]


def require_anonymiser(dataset: Dataset | None, where: str) -> None:
    """Find out before the work whether a result can be anonymous.

    Raises BadInputError: no DICOM, or one that says that its pixels show who it is. ConfigurationError: a package is missing.
    """
    if dataset is None:
        raise BadInputError(
            f"{where} is no DICOM: --anonymize is for DICOM results. Other forms are not anonymised: a NIfTI"
            " result has its source's header, and every result is named as you or its source name it"
        )
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        raise BadInputError(
            f"{where} says that its pixels hold burned-in text (BurnedInAnnotation YES): an anonymous result would still"
            " show it. Black it out first, and set BurnedInAnnotation to NO"
        )
    _package()


def anonymise(dataset: Dataset, salt: bytes) -> None:
    """Apply the profile in place. Raises BadInputError, ConfigurationError: as `require_anonymiser`."""
    require_anonymiser(dataset, "the DICOM source")
    package = _package()
    rules = _rules(package, salt)
    _clean(dataset, package, rules)
    drop_dataless_overlays(dataset)  # the profile takes the data, and what describes them is then void
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    item = Dataset()
    item.CodeValue, item.CodeMeaning = PROFILE
    item.CodingSchemeDesignator = "DCM"
    dataset.DeidentificationMethodCodeSequence = [item]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def anonymous_uid(uid: str, salt: bytes) -> str:
    """The UID that stands for another in one run: UUID-derived (PS3.5, B.2)."""
    digest = hashlib.sha256(b"anonymous" + salt + uid.encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def _package() -> Any:
    try:
        return importlib.import_module("dicomanonymizer.simpledicomanonymizer")
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"--anonymize needs dicom-anonymizer, which is not installed. Run: {INSTALL}") from error


def _rules(package: Any, salt: bytes) -> _Rules:
    def replace_uids(dataset: Dataset, tag: tuple[int, int]) -> None:
        element = dataset.get(tag)
        if element is None or not element.value:
            return
        if isinstance(element.value, str):
            element.value = anonymous_uid(element.value, salt)
        else:
            element.value = [anonymous_uid(str(uid), salt) for uid in element.value]

    def remove(dataset: Dataset, tag: tuple[int, int]) -> None:
        if tag in dataset:
            del dataset[tag]

    def references(dataset: Dataset, tag: tuple[int, int]) -> None:
        """X/Z/U*: the reference stays, and the UIDs in its items are replaced when the items' turn comes."""

    ours = {
        package.delete: remove,
        package.replace_UID: replace_uids,
        package.delete_or_empty_or_replace_UID: references,
    }
    may_be_empty = (package.empty, package.delete_or_empty)

    def undated(action: _Action) -> _Action:
        def apply(dataset: Dataset, tag: tuple[int, int]) -> None:
            element = dataset.get(tag)
            if element is None or element.VR not in _DUMMIES:
                action(dataset, tag)
            else:
                element.value = "" if action in may_be_empty else _DUMMIES[element.VR]

        return apply

    return {tag: ours.get(action) or undated(action) for tag, action in package.initialize_actions(TABLE).items()}


def _clean(dataset: Dataset, package: Any, rules: _Rules) -> None:
    package.anonymize_dataset(dataset, base_rules_gen=lambda: dict(rules))
    for element in list(dataset):
        if element.VR == "SQ":
            for item in element.value:
                _clean(item, package, rules)
