"""An image outside Darkroom: its pixels on [0, 1], and what is needed to write a result back in its own form.

None of this leaves the hospital, except height and width.
"""

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jaxtyping import Float64
from torch import Tensor

from protocols.network import MIN_SIDE
from protocols.unpicklable import Unpicklable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MIN_IMAGE_SIDE: Final = MIN_SIDE
MAX_PIXELS: Final = 1 << 26  # 512 MiB of ring words for each server; larger ones are cut by whoever has them


class Kind(enum.Enum):
    """The form that an image came in, and that its result is written in."""

    NPY = "npy"
    DICOM = "dicom"


@dataclass(frozen=True)
class Normalisation:
    """The affine map back: stored value = slope * pixel + intercept. Stays at the hospital."""

    slope: float
    intercept: float


IDENTITY: Final = Normalisation(1.0, 0.0)


@dataclass(frozen=True, eq=False)
class Origin(Unpicklable):
    """Where pixels came from, without the pixels."""

    kind: Kind
    normalisation: Normalisation
    bits: int  # stored bits of a DICOM pixel; width of a float in an .npy file
    name: str = field(repr=False)  # the file's name, which may hold a patient's
    dataset: "Dataset | None" = field(repr=False)  # the DICOM header without pixels


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


@dataclass(frozen=True)
class Provenance:
    """How a result was made, for the header of a derived DICOM."""

    model: str
    sigma: float  # noise level that the network was told, in units of the normalised range
    engine: str

    def __str__(self) -> str:
        return f"Denoised by Darkroom: model {self.model}, sigma {self.sigma * 255:.4g}/255, engine {self.engine}"
