"""A split by subject, as the literature states it: 70 % of the subjects to learn from, 15 % to choose by, 15 % to judge by.

No subject is in two parts: slices of one head resemble each other, and who has seen some is judged too well by the others.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from protocols.errors import BadInputError

SMALL_PART: Final = 0.15  # of the subjects: of the part to choose by, and of that to judge by; the rest is learned from
FEWEST: Final = 3


@dataclass(frozen=True)
class SubjectSplit:
    """Names of series. subjects: how many each part has, in the same order."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    subjects: tuple[int, int, int]


def split_by_subject(index: Mapping[str, Mapping[str, Any]], exclude: Collection[str] = ()) -> SubjectSplit:
    """The same split whenever the same series are listed. Raises BadInputError: fewer than three subjects.

    index: as `load_index` gives it; series of one `source` are taken for one subject. exclude: names, without the part before
    the slash. Subjects in validation/* alone are judged by first, since networks that exist learned from the others; among
    equals a hash of the source decides, which knows nothing of the images. A small part has one subject at least.
    """
    members: dict[str, list[str]] = {}
    for name in sorted(index):
        if name.split("/", 1)[1] not in exclude:
            members.setdefault(str(index[name].get("source", name)), []).append(name)
    if len(members) < FEWEST:
        raise BadInputError(f"the index lists {len(members)} subjects; a split into three parts needs {FEWEST}")

    def order(subject: str) -> tuple[bool, bytes]:
        learned = any(name.startswith("train/") for name in members[subject])
        return learned, hashlib.sha256(subject.encode()).digest()

    ordered = sorted(members, key=order)
    small = max(1, round(SMALL_PART * len(ordered)))
    parts = (ordered[2 * small :], ordered[small : 2 * small], ordered[:small])
    training, validation, test = (tuple(sorted(name for subject in part for name in members[subject])) for part in parts)
    return SubjectSplit(training, validation, test, (len(parts[0]), small, small))
