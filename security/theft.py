"""A thief takes the stores of A and B while no window is open: what is in them, and what a denoiser makes of it.

The files are those that live servers wrote. The thief knows what a server knows (sizes, mode, sigma_p: they are in the header)
and that pixels are in [0, 1]; he has the shipped denoiser, which is public, and BM3D where it is installed.

BM3D: K. Dabov, A. Foi, V. Katkovnik, K. Egiazarian, Image denoising by sparse 3-D transform-domain collaborative filtering,
IEEE Trans. Image Processing 16 (2007), 2080-2095; the program is Y. Makinen, L. Azzari, A. Foi's (IEEE Trans. Image Processing 29
(2020), 8339-8354), Tampere University's. Its licence allows informational, non-commercial use only: it is not open software,
never a dependency of Darkroom, and left out where it is not installed (`pip install bm3d`).
"""

import importlib
import importlib.util
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float64, Int64
from pydicom.data import get_testdata_file
from scipy.stats import chi2, kstest, norm, t
from torch import Tensor
from torch.nn import functional

from client.images import read_image
from client.model_file import Model
from client.origin import IDENTITY, Kind, Origin, SourceImage
from client.records import ObjectRecord
from client.report import float_estimate
from darkroom.simulation import Simulation
from proto import darkroom_pb2 as pb
from protocols import ring
from protocols.errors import ConfigurationError
from protocols.fixed_point import decode
from protocols.sharing import expand_seed, reconstruct
from server.share_store import ShareStore

IMAGE: Final = "examples_overlay.dcm"  # an abdominal MR in pydicom's own wheel
SIDE: Final = 256
TRAINED_TO: Final = 55.0 / 255  # the shipped denoiser's noise levels
BM3D_TO: Final = 100.0 / 255  # the strongest noise its authors report
SMALLEST: Final = 8  # pixels on a side that a denoiser still takes

Estimate = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True, eq=False)
class Loot:
    """Both stored shares of one object. Secrets of a made-up hospital."""

    header: pb.StoreHeader = field(repr=False)
    share_a: Int64[Tensor, "h w"] = field(repr=False)
    share_b: Int64[Tensor, "h w"] = field(repr=False)

    @property
    def packed(self) -> Int64[Tensor, "h w"]:
        """What the two give together: the packed image."""
        return reconstruct(self.share_a, self.share_b)

    @property
    def sigma_p(self) -> float:
        return float(self.header.packing_sigma)


def steal(running: Simulation, folder: Path) -> Path:
    """Copy both stores of objects, as a thief of disks would; returns the copy."""
    for name, letter in (("server-a", "a"), ("server-b", "b")):
        shutil.copytree(running.site.folder(name) / f"{letter}.store" / "objects", folder / letter, dirs_exist_ok=True)
    return folder


def open_loot(stolen: Path, record: ObjectRecord) -> Loot:
    """Read one object from the copy of both stores: A's file holds a seed, B's the words."""
    a, b = (ShareStore(stolen / letter).read(str(record.object_id)) for letter in ("a", "b"))
    header = pb.StoreHeader.FromString(b.header)
    shape = (header.size.height, header.size.width)
    seed = pb.StoreHeader.FromString(a.header).seed
    return Loot(header, expand_seed(seed, (1, *shape))[0], ring.from_bytes(b.words, shape))


def truth() -> Float64[Tensor, "256 256"]:
    """The middle of a real MR image, on [0, 1]. Raises ConfigurationError."""
    found = get_testdata_file(IMAGE, download=False)
    if not isinstance(found, str):
        raise ConfigurationError(f"pydicom came without its test image {IMAGE}: reinstall pydicom")
    pixels = read_image(Path(found)).pixels
    top, left = ((side - SIDE) // 2 for side in pixels.shape)
    return pixels[top : top + SIDE, left : left + SIDE].contiguous()


def as_source(pixels: Float64[Tensor, "h w"]) -> SourceImage:
    """For `client.acquisition.store`."""
    return SourceImage(pixels, Origin(Kind.NPY, IDENTITY, 64, "image.npy", None))


# --- the thief's tools ---


def network_tool(model: Model) -> Estimate:
    """The shipped denoiser in floating point."""

    def estimate(noisy: Tensor, sigma: float) -> Tensor:
        small, level = reduced(noisy, sigma, TRAINED_TO)
        return enlarged(float_estimate(model, small, min(level, TRAINED_TO)), noisy.shape)

    return estimate


def bm3d_tool() -> Estimate | None:
    """BM3D, where it is installed."""
    if importlib.util.find_spec("bm3d") is None:
        return None
    bm3d: Any = importlib.import_module("bm3d")

    def estimate(noisy: Tensor, sigma: float) -> Tensor:
        small, level = reduced(noisy, sigma, BM3D_TO)
        return enlarged(torch.from_numpy(bm3d.bm3d(small.numpy(), sigma_psd=level)), noisy.shape)

    return estimate


def reduced(noisy: Float64[Tensor, "h w"], sigma: float, limit: float) -> tuple[Float64[Tensor, "h2 w2"], float]:
    """Means of the smallest square blocks (side a power of two) that bring the noise down to `limit`.

    Noise that is too strong for a denoiser is not too strong for an average: a block of k x k divides sigma by k.
    """
    factor = 1
    while sigma / factor > limit and min(noisy.shape) // (2 * factor) >= SMALLEST:
        factor *= 2
    small = functional.avg_pool2d(noisy[None, None], factor)[0, 0] if factor > 1 else noisy
    return small, sigma / factor


def enlarged(small: Float64[Tensor, "h2 w2"], shape: torch.Size) -> Float64[Tensor, "h w"]:
    """Back to full size, on [0, 1]."""
    if small.shape != shape:
        small = functional.interpolate(small[None, None], size=tuple(shape), mode="bicubic", align_corners=False)[0, 0]
    return small.clamp(0.0, 1.0)


def region_means(image: Float64[Tensor, "h w"], side: int) -> Float64[Tensor, "rows cols"]:
    """Means of side x side regions."""
    return functional.avg_pool2d(image[None, None], side)[0, 0]


def uniform_as_image(words: Int64[Tensor, "h w"]) -> Float64[Tensor, "h w"]:
    """Ring words as a picture on [0, 1]: the best a thief can do with words that are uniform."""
    return words.double() / 2.0**64 + 0.5


def packed_as_image(loot: Loot) -> Float64[Tensor, "h w"]:
    """The packed image as reals."""
    return decode(loot.packed)


# --- what the noise must be, and whether anything of the image is left ---


def correlation_p(left: Float64[Tensor, "..."], right: Float64[Tensor, "..."]) -> float:
    """Two-sided p of Pearson's correlation, by Student's t with n - 2 degrees of freedom; 0 for a constant side."""
    x, y = (side.flatten().double() - side.double().mean() for side in (left, right))
    norm = float(torch.sqrt(x.square().sum() * y.square().sum()))
    if norm == 0.0:
        return 0.0
    r = max(-1.0, min(1.0, float((x * y).sum()) / norm))
    degrees = x.numel() - 2
    return float(2.0 * t.sf(abs(r) * math.sqrt(degrees / max(1.0 - r * r, 1e-300)), degrees))


def traces(image: Float64[Tensor, "h w"], words: Int64[Tensor, "h w"]) -> dict[str, float]:
    """Test the correlation of an image with the words and with each of their byte planes, pixels and block means.

    Returns p for each; if words are uniform and independent of the image, every p is uniform on [0, 1].
    """
    planes = {"word": words.double() / 2.0**64}
    raw = words.contiguous().view(torch.uint8).view(*words.shape, ring.WORD_BYTES)
    planes |= {f"byte {index}": raw[..., index].double() for index in range(ring.WORD_BYTES)}
    out = {}
    for name, plane in planes.items():
        for side in (1, 4, 16):
            mean_x, mean_y = (region_means(part, side) for part in (image.double(), plane))
            out[f"{name}, {side}x{side} means"] = correlation_p(mean_x, mean_y)
    return out


def noise_checks(noise: Float64[Tensor, "h w"], sigma: float, side: int) -> dict[str, float]:
    """Test in five ways that noise is white Gaussian with this sigma: what the bounds of DESIGN section 7 take for granted.

    The last: means of side x side regions scatter by sigma / side, no less, so they leak what `mean_leakage_bits` says.
    """
    flat = noise.flatten() / sigma
    count = flat.numel()
    means = region_means(noise, side).flatten() * (side / sigma)

    def two_sided(statistic: float, degrees: int) -> float:
        return float(2.0 * min(chi2.cdf(statistic, degrees), chi2.sf(statistic, degrees)))

    return {
        "mean": float(2.0 * norm.sf(abs(float(flat.sum()) / math.sqrt(count)))),
        "variance": two_sided(float(flat.square().sum()), count),
        "normal": float(kstest(flat.numpy(), "norm").pvalue),
        "neighbours": correlation_p(noise[:, :-1], noise[:, 1:]),
        "region means": two_sided(float(means.square().sum()), means.numel()),
    }
