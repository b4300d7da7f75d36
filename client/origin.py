"""An image outside Darkroom: its planes on [0, 1], and what is needed to write a result back in its own form.

None of this leaves the hospital, except height and width.
"""

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from protocols.network import MIN_SIDE
from protocols.unpicklable import Unpicklable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MIN_IMAGE_SIDE: Final = MIN_SIDE
MAX_PIXELS: Final = 1 << 26  # 512 MiB of ring words for each server; larger ones are cut by whoever has them
MAX_PLANES: Final = 1 << 14  # no scanner's series is longer; a file that promises more is damaged
MAX_STACK_PIXELS: Final = 1 << 28  # 1,024 planes of 512x512: 2 GiB of results here


class Kind(enum.Enum):
    """The form that an image came in, and that its result is written in."""

    NPY = "npy"
    DICOM = "dicom"
    PNG = "png"
    TIFF = "tiff"
    NIFTI = "nifti"
    FRAME = "frame"  # one plane out of a file of several: the file's own form needs all of them


@dataclass(frozen=True)
class Normalisation:
    """The affine map back: stored value = slope * pixel + intercept. Stays at the hospital."""

    slope: float
    intercept: float


IDENTITY: Final = Normalisation(1.0, 0.0)


@dataclass(frozen=True, eq=False)
class KeptPixels(Unpicklable):
    """Pixels that are no part of the picture, such as padding: they come back as they were."""

    mask: NDArray[np.bool_] = field(repr=False)  # [h, w]
    values: NDArray[np.float64] = field(repr=False)  # where the mask is, row by row; in the file's units


@dataclass(frozen=True, eq=False)
class Origin(Unpicklable):
    """Where pixels came from, without the pixels."""

    kind: Kind
    normalisation: Normalisation
    bits: int  # stored bits of a DICOM pixel; width of a number in the other forms
    name: str = field(repr=False)  # the file's name, which may hold a patient's
    dataset: "Dataset | None" = field(repr=False)  # the DICOM header without pixels
    kept: KeptPixels | None = field(default=None, repr=False)
    header: bytes = field(default=b"", repr=False)  # of other forms: what their writer needs

    def to_grey(self, stored: NDArray[np.generic]) -> Float64[Tensor, "h w"]:
        """The file's values on [0, 1]. Kept pixels, which may lie anywhere, become the nearest grey level."""
        values = np.asarray(stored, dtype=np.float64)
        pixels = (values - self.normalisation.intercept) / self.normalisation.slope
        if self.kept is not None:
            pixels[self.kept.mask] = np.clip(np.nan_to_num(pixels[self.kept.mask], posinf=1.0, neginf=0.0), 0.0, 1.0)
        return torch.from_numpy(pixels)

    def to_values(self, pixels: Float64[Tensor, "h w"]) -> NDArray[np.float64]:
        """A result in the file's units, neither rounded nor clipped; kept pixels as they were."""
        values: NDArray[np.float64] = pixels.double().numpy() * self.normalisation.slope + self.normalisation.intercept
        if self.kept is not None:
            values[self.kept.mask] = self.kept.values
        return values

    def to_grey_results(self, pixels: Float64[Tensor, "h w"]) -> NDArray[np.float64]:
        """A result on [0, 1]; kept pixels as they were, so they may lie outside, or be NaN."""
        values: NDArray[np.float64] = pixels.double().numpy().copy()
        if self.kept is not None:
            kept = (self.kept.values - self.normalisation.intercept) / self.normalisation.slope
            values[self.kept.mask] = kept
        return values


@dataclass(frozen=True, eq=False)
class SourceImage(Unpicklable):
    """One plane with its origin. The shape is public, the pixels are not."""

    pixels: Float64[Tensor, "h w"] = field(repr=False)  # [0, 1] nominal
    origin: Origin

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def kind(self) -> Kind:
        return self.origin.kind

    @property
    def normalisation(self) -> Normalisation:
        return self.origin.normalisation

    @property
    def bits(self) -> int:
        return self.origin.bits

    @property
    def dataset(self) -> "Dataset | None":
        return self.origin.dataset

    @property
    def name(self) -> str:
        return self.origin.name


@dataclass(frozen=True, eq=False)
class ImageStack(Unpicklable):
    """The planes of one file, or of a folder that is one series: of one size, and on one scale of grey levels.

    Each plane is made when it is asked for, so a long series takes the memory of its stored values and of one plane.
    """

    kind: Kind
    name: str = field(repr=False)
    count: int
    height: int
    width: int
    plane: Callable[[int], SourceImage] = field(repr=False)  # from 0
    files: tuple[str, ...] = field(default=(), repr=False)  # of a series: each plane's file, for the results' names

    def __iter__(self) -> Iterator[SourceImage]:
        return (self.plane(index) for index in range(self.count))

    def origins(self) -> Iterator[Origin]:
        """What a result's file needs, plane by plane."""
        return (self.plane(index).origin for index in range(self.count))


def detached(image: SourceImage) -> SourceImage:
    """One plane of several by itself: its own file's form would need the others, so it can no longer be written so."""
    return SourceImage(image.pixels, replace(image.origin, kind=Kind.FRAME, dataset=None, header=b""))


def single(image: SourceImage) -> ImageStack:
    """A stack of one plane."""

    def plane(index: int) -> SourceImage:
        return (image,)[index]

    return ImageStack(image.kind, image.name, 1, image.height, image.width, plane)


DERIVED_BY: Final = "Denoised by Darkroom: "  # how a result's DerivationDescription begins


@dataclass(frozen=True)
class Provenance:
    """How a result was made, for the header of a derived DICOM."""

    model: str
    sigma: float  # noise level that the network was told, in units of the normalised range
    engine: str

    @classmethod
    def of_all(cls, planes: "Sequence[Provenance]") -> "Provenance":
        """Of a file of several planes: one model and engine, and the largest noise level."""
        return cls(planes[0].model, max(plane.sigma for plane in planes), planes[0].engine)

    def __str__(self) -> str:
        return f"{DERIVED_BY}model {self.model}, sigma {self.sigma * 255:.4g}/255, engine {self.engine}"
