"""How DICOM stores a pixel: bits, sign, padding; and the map between stored values and grey levels on [0, 1].

A pixel that is no part of the picture is kept as it is: padding (PixelPaddingValue, with PixelPaddingRangeLimit), and a word
whose unused bits say that it lies outside the stored range. It has no part in the range of grey levels, the network sees the
nearest grey level in its place, and the word itself comes back.
Source: DICOM PS3.3 2024e, C.7.6.3 (pixels), C.7.5.1.1.2 (padding), C.9.2 (overlays); PS3.5, 8.1.1 (bits).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from client.origin import MAX_PIXELS, MAX_PLANES, MAX_STACK_PIXELS, MIN_IMAGE_SIDE, KeptPixels, Normalisation
from protocols.errors import BadInputError

SUPPORTED: Final = (
    "supported is monochrome, one sample per pixel, 8 to 16 stored bits: uncompressed little-endian, JPEG 2000, JPEG-LS, RLE,"
    " JPEG lossless or JPEG baseline"
)
GROUPS_OF_OVERLAYS: Final = range(0x6000, 0x6020, 2)
_MONOCHROME: Final = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class PixelForm:
    """How planes are stored."""

    rows: int
    columns: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    inverted: bool  # MONOCHROME1: the largest value is black
    frames: int = 1
    embedded: bool = False  # overlays lie in unused bits of the pixels (retired in 2004)
    padding: tuple[int, int] | None = None  # first and last padding value, as words

    @property
    def low(self) -> int:
        return -(1 << (self.stored - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        return self.low + (1 << self.stored) - 1

    @property
    def dtype(self) -> str:
        """Of the words in a file, without their meaning."""
        return "<u2" if self.allocated == 16 else "|u1"


@dataclass(frozen=True)
class Rescale:
    """The modality transformation: value = slope * stored + intercept, in Hounsfield units or what the header says."""

    slope: float
    intercept: float


@dataclass(frozen=True)
class Span:
    """The extreme stored values of one plane's picture, padding apart, with the plane's rescale."""

    low: float
    high: float
    rescale: Rescale


def pixel_form(dataset: Dataset, where: str) -> PixelForm:
    """Read and check how the planes are stored; touches no pixel. Raises BadInputError."""
    photometric = str(dataset.get("PhotometricInterpretation", "missing"))
    samples, frames = _integer(dataset, "SamplesPerPixel", where, 1), _integer(dataset, "NumberOfFrames", where, 1)
    if photometric not in _MONOCHROME or samples != 1:
        raise BadInputError(f"{where}: {photometric[:20]} with {samples} samples per pixel is no grey image; {SUPPORTED}")
    rows, columns = _integer(dataset, "Rows", where), _integer(dataset, "Columns", where)
    if min(rows, columns) < MIN_IMAGE_SIDE or rows * columns > MAX_PIXELS:
        raise BadInputError(
            f"{where} is {rows}x{columns}: each side needs {MIN_IMAGE_SIDE} pixels, and at most {MAX_PIXELS} in all"
        )
    if not 1 <= frames <= MAX_PLANES or frames * rows * columns > MAX_STACK_PIXELS:
        raise BadInputError(
            f"{where} has {frames} frames of {rows}x{columns}: at most {MAX_PLANES} frames and {MAX_STACK_PIXELS} pixels in all"
        )
    allocated, stored = _integer(dataset, "BitsAllocated", where), _integer(dataset, "BitsStored", where)
    high_bit = _integer(dataset, "HighBit", where, stored - 1)
    if allocated not in (8, 16) or not 8 <= stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise BadInputError(f"{where}: {stored} bits stored in {allocated}, high bit {high_bit}; {SUPPORTED}")
    signed = _integer(dataset, "PixelRepresentation", where)
    if signed not in (0, 1):
        raise BadInputError(f"{where}: PixelRepresentation is {signed}; it must be 0 or 1")
    return PixelForm(
        rows,
        columns,
        allocated,
        stored,
        high_bit,
        bool(signed),
        inverted=photometric == "MONOCHROME1",
        frames=frames,
        embedded=bool(embedded_overlays(dataset)),
        padding=_padding(dataset, allocated, bool(signed), where),
    )


def embedded_overlays(dataset: Dataset) -> list[int]:
    """The groups of overlays without data of their own: they lie in unused bits of the pixels."""
    return [group for group in GROUPS_OF_OVERLAYS if Tag(group, 0x0010) in dataset and Tag(group, 0x3000) not in dataset]


def drop_dataless_overlays(dataset: Dataset) -> None:
    """Remove every overlay that has no data of its own."""
    for group in embedded_overlays(dataset):
        for tag in [tag for tag in dataset.keys() if tag.group == group]:  # noqa: SIM118 - a Dataset iterates elements
            del dataset[tag]


def rescales(dataset: Dataset, frames: int, where: str) -> tuple[Rescale, ...]:
    """The modality transformation of every frame; the identity where the header has none, or has a table.

    Raises BadInputError: a slope of 0, or no numbers.
    """
    shared, own = _groups(dataset, "SharedFunctionalGroupsSequence"), _groups(dataset, "PerFrameFunctionalGroupsSequence")
    if own and len(own) != frames:
        raise BadInputError(f"{where} has {frames} frames and functional groups for {len(own)}")
    found = []
    for index in range(frames):
        places = [*own[index : index + 1], *shared[:1]]
        nested = [item for place in places for item in _groups(place, "PixelValueTransformationSequence")]
        source = next((item for item in (*nested, dataset) if "RescaleSlope" in item), None)
        if source is None:
            found.append(Rescale(1.0, 0.0))
            continue
        slope = _real(source, "RescaleSlope", where, 1.0)
        if slope == 0.0:
            raise BadInputError(f"{where}: RescaleSlope is 0, so all grey levels are one")
        found.append(Rescale(slope, _real(source, "RescaleIntercept", where, 0.0)))
    return tuple(found)


def stored_values(words: NDArray[Any], form: PixelForm) -> NDArray[np.int32]:
    """What the words mean: the stored bits are cut out of the allocated ones, then sign-extended."""
    values = (words.astype(np.int32) >> (form.high_bit + 1 - form.stored)) & ((1 << form.stored) - 1)
    if form.signed:
        values -= (values >> (form.stored - 1)) << form.stored
    return values


def kept_pixels(words: NDArray[Any], form: PixelForm) -> KeptPixels | None:
    """The pixels of one plane that are no part of the picture; None where all are."""
    values = stored_values(words, form)
    whole = words.astype(np.int32)
    if form.signed:
        whole -= (whole >> (form.allocated - 1)) << form.allocated
    if form.high_bit != form.stored - 1 or form.embedded:
        whole = values  # unused bits hold something else
    mask = np.zeros(words.shape, dtype=bool)
    if form.padding is not None:
        first, last = form.padding
        mask |= ((whole >= first) & (whole <= last)) | ((values >= first) & (values <= last))
    # Some writers leave the unused bits of a negative value zero.
    mask |= (whole != values) & (whole != (values & ((1 << form.stored) - 1)))
    return KeptPixels(mask, whole[mask].astype(np.float64)) if mask.any() else None


def span_of(words: NDArray[Any], form: PixelForm, rescale: Rescale) -> Span | None:
    """The range of one plane's picture; None where all of it is padding."""
    values, kept = stored_values(words, form), kept_pixels(words, form)
    picture = values if kept is None else values[~kept.mask]
    return Span(float(picture.min()), float(picture.max()), rescale) if picture.size else None


def normalisations(spans: Iterable[Span | None], rescale: Sequence[Rescale], *, inverted: bool) -> tuple[Normalisation, ...]:
    """One map per plane: 0 is the darkest and 1 the brightest value of all planes together, as the header rescales them.

    Where all planes have one rescale it changes nothing but, if its slope is negative, which end is dark. Where they differ
    (PET), equal values get equal grey levels. All of one value: 0.
    """
    known = [span for span in spans if span is not None]
    if len(set(rescale)) == 1:
        unit = Rescale(math.copysign(1.0, rescale[0].slope), 0.0)
        known, rescale = [Span(span.low, span.high, unit) for span in known], [unit] * len(rescale)
    ends = [span.rescale.slope * end + span.rescale.intercept for span in known for end in (span.low, span.high)] or [0.0]
    low, high = min(ends), max(ends)
    span_all = (high - low) or 1.0
    if inverted:
        return tuple(Normalisation(-span_all / each.slope, (high - each.intercept) / each.slope) for each in rescale)
    return tuple(Normalisation(span_all / each.slope, (low - each.intercept) / each.slope) for each in rescale)


def words_of(values: NDArray[np.float64], form: PixelForm, kept: KeptPixels | None) -> bytes:
    """Stored values as the bytes of one plane, low-aligned. Rounds, and clips to the stored range.

    A picture's value that would now be taken for padding is moved to the nearest one that is not. Negative values are
    sign-extended through the unused bits, as readers expect. Kept pixels come back as they were.
    """
    whole = np.clip(np.rint(values), form.low, form.high).astype(np.int64)
    if form.padding is not None:
        whole = _off_padding(whole, form, *form.padding)
    if kept is not None:
        whole[kept.mask] = kept.values.astype(np.int64)
    return (whole & ((1 << form.allocated) - 1)).astype(form.dtype).tobytes()


def _off_padding(values: NDArray[np.int64], form: PixelForm, first: int, last: int) -> NDArray[np.int64]:
    below, above = first - 1, last + 1
    inside = (values > below) & (values < above)
    up = (values - below >= above - values) if below >= form.low else np.ones(values.shape, dtype=bool)
    if above > form.high:
        up[...] = False
    moved: NDArray[np.int64] = np.where(inside, np.where(up, above, below), values)
    return moved


def _padding(dataset: Dataset, allocated: int, signed: bool, where: str) -> tuple[int, int] | None:
    """Padding as words. Its elements are read as signed or unsigned by writers' habits, whatever the pixels are."""
    if dataset.get("PixelPaddingValue") is None:
        return None
    first = _integer(dataset, "PixelPaddingValue", where)
    limit = _integer(dataset, "PixelPaddingRangeLimit", where, first)
    ends = sorted(_as_word(value, allocated, signed) for value in (first, limit))
    return ends[0], ends[1]


def _as_word(value: int, allocated: int, signed: bool) -> int:
    word = value & ((1 << allocated) - 1)
    return word - (1 << allocated) if signed and word >> (allocated - 1) else word


def _groups(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = dataset.get(keyword)
    return list(value) if value is not None else []


def _integer(dataset: Dataset, keyword: str, where: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    value = default if value is None else value
    if not isinstance(value, int):
        raise BadInputError(f"{where}: {keyword} is {'missing' if value is None else 'not one integer'}; {SUPPORTED}")
    return int(value)


def _real(dataset: Dataset, keyword: str, where: str, default: float) -> float:
    value = dataset.get(keyword)
    value = default if value is None else value
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInputError(f"{where}: {keyword} is not one number; correct it")
    return float(value)
