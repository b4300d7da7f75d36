"""The literature's metrics on an image of bytes, each with its law for uniform bytes, so that a value becomes a p.

Histogram: Pearson's chi-square with 255 degrees of freedom. Entropy: the plug-in estimate is too small by about
255 / (2 N ln 2) bits for uniform bytes (G. A. Miller, Note on the bias of information estimates, 1955; Miller-Madow); 2 N ln 2
times the lack of entropy is the likelihood-ratio statistic G, chi-square with 255 degrees of freedom (S. S. Wilks, 1938).
Adjacent pixels: Pearson's r over n pairs, Student's t. NPCR and UACI with their tests: Y. Wu, J. P. Noonan, S. Agaian, NPCR and
UACI randomness tests for image encryption, Cyber Journals: JSAT, April 2011, 31-38. SSIM: scikit-image; its law under uniform
bytes has no formula, so it is sampled.

All of these look at bytes alone. They cannot prove security: see `security.metrics`.
"""

import math
import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from numpy.typing import NDArray
from scipy.stats import chi2, norm, t
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from protocols import ring

LEVELS: Final = 256
F: Final = LEVELS - 1  # the largest byte, as Wu, Noonan and Agaian call it
DIRECTIONS: Final = ("horizontal", "vertical", "diagonal")

Bytes = UInt8[np.ndarray, "h w"]


def byte_planes(words: Int64[Tensor, "h w"]) -> list[Bytes]:
    """The eight byte planes of ring words, the least significant first."""
    raw: NDArray[np.uint8] = np.frombuffer(ring.to_bytes(words), dtype=np.uint8).reshape(*words.shape, ring.WORD_BYTES)
    return [np.ascontiguousarray(raw[..., index]) for index in range(ring.WORD_BYTES)]


@dataclass(frozen=True)
class Metric:
    """A value, what uniform bytes give on average, and how likely they are to give one as far off."""

    value: float
    expected: float
    p: float


def histogram(plane: Bytes) -> Metric:
    """Pearson's chi-square against a flat histogram; only a large one is suspicious, as is the literature's way."""
    counts = np.bincount(plane.ravel(), minlength=LEVELS)
    expected = plane.size / LEVELS
    value = float(((counts - expected) ** 2).sum() / expected)
    return Metric(value, float(F), float(chi2.sf(value, F)))


def entropy(plane: Bytes) -> Metric:
    """Plug-in entropy in bits, beside its mean over uniform samples of this size (Miller-Madow)."""
    counts = np.bincount(plane.ravel(), minlength=LEVELS)
    parts = counts[counts > 0] / plane.size
    value = float(-(parts * np.log2(parts)).sum())
    lack = 2.0 * plane.size * math.log(2.0) * (8.0 - value)
    return Metric(value, 8.0 - F / (2.0 * plane.size * math.log(2.0)), float(chi2.sf(lack, F)))


def miller_madow(plane: Bytes) -> float:
    """Entropy in bits with the bias of the finite sample taken off."""
    occupied = int((np.bincount(plane.ravel(), minlength=LEVELS) > 0).sum())
    return entropy(plane).value + (occupied - 1) / (2.0 * plane.size * math.log(2.0))


def adjacent_correlation(plane: Bytes, direction: str) -> Metric:
    """Correlation of all pairs of neighbours in one direction. A constant plane counts as wholly correlated."""
    down, right = {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1)}[direction]
    height, width = plane.shape
    first = plane[: height - down, : width - right].ravel().astype(np.float64)
    second = plane[down:, right:].ravel().astype(np.float64)
    spread = float(first.std() * second.std())
    if spread == 0.0:
        return Metric(1.0, 0.0, 0.0)
    r = float(((first - first.mean()) * (second - second.mean())).mean()) / spread
    degrees = first.size - 2
    statistic = abs(r) * math.sqrt(degrees / max(1.0 - r * r, 1e-300))
    return Metric(r, 0.0, float(2.0 * t.sf(statistic, degrees)))


def npcr(first: Bytes, second: Bytes) -> Metric:
    """Part of pixels that differ between two encryptions; suspicious where it is too small (one-sided)."""
    value = float((first != second).mean())
    mean = F / (F + 1.0)
    deviation = math.sqrt(F / first.size) / (F + 1.0)
    return Metric(value, mean, float(norm.cdf((value - mean) / deviation)))


def npcr_critical(pixels: int, alpha: float) -> float:
    """Wu, Noonan and Agaian's N*: an NPCR below it is refused at level alpha."""
    return float((F - norm.isf(alpha) * math.sqrt(F / pixels)) / (F + 1.0))


def uaci(first: Bytes, second: Bytes) -> Metric:
    """Mean absolute difference over 255; suspicious where it is too small or too large (two-sided)."""
    value = float(np.abs(first.astype(np.int16) - second.astype(np.int16)).mean() / F)
    mean, deviation = _uaci_law(first.size)
    return Metric(value, mean, float(2.0 * norm.sf(abs(value - mean) / deviation)))


def uaci_critical(pixels: int, alpha: float) -> tuple[float, float]:
    """Wu, Noonan and Agaian's U*- and U*+: a UACI outside is refused at level alpha."""
    mean, deviation = _uaci_law(pixels)
    reach = float(norm.isf(alpha / 2.0)) * deviation
    return mean - reach, mean + reach


def _uaci_law(pixels: int) -> tuple[float, float]:
    mean = (F + 2.0) / (3.0 * F + 3.0)
    variance = (F + 2.0) * (F * F + 2.0 * F + 3.0) / (18.0 * (F + 1.0) ** 2 * F * pixels)
    return mean, math.sqrt(variance)


@dataclass(frozen=True)
class Likeness:
    """How far bytes resemble the original, as the literature states it."""

    mse: float
    psnr_db: float
    ssim: float


def likeness(original: Bytes, plane: Bytes) -> Likeness:
    """MSE, PSNR and SSIM (scikit-image) between an 8-bit original and a byte plane."""
    return Likeness(
        float(mean_squared_error(original, plane)),
        float(peak_signal_noise_ratio(original, plane, data_range=F)),
        float(structural_similarity(original, plane, data_range=F)),
    )


@dataclass(frozen=True)
class UniformLikeness:
    """Mean and standard deviation of MSE and SSIM between an original and uniform bytes, sampled."""

    mse: tuple[float, float]
    ssim: tuple[float, float]
    samples: int

    def judge(self, found: Likeness) -> dict[str, Metric]:
        """Two-sided normal p: both are means over many pixels."""
        return {
            name: Metric(value, mean, float(2.0 * norm.sf(abs(value - mean) / deviation)))
            for name, value, (mean, deviation) in (("MSE", found.mse, self.mse), ("SSIM", found.ssim, self.ssim))
        }


def uniform_likeness(original: Bytes, samples: int) -> UniformLikeness:
    """Compare the original with bytes of the operating system's generator, `samples` times."""
    found = []
    for _ in range(samples):
        uniform: Bytes = np.frombuffer(secrets.token_bytes(original.size), dtype=np.uint8).reshape(original.shape)
        found.append(likeness(original, uniform))
    mse, ssim = (np.array([getattr(one, name) for one in found]) for name in ("mse", "ssim"))
    # a sampled deviation is itself uncertain: by its upper 1e-6 limit the p of an honest system are on the safe side
    wide = math.sqrt((samples - 1) / float(chi2.isf(1.0 - 1e-6, samples - 1)))
    return UniformLikeness(
        (float(mse.mean()), float(mse.std(ddof=1)) * wide), (float(ssim.mean()), float(ssim.std(ddof=1)) * wide), samples
    )


def one_image_tests(plane: Bytes) -> dict[str, Metric]:
    """Everything that one encryption is asked."""
    tests = {"histogram": histogram(plane), "entropy": entropy(plane)}
    return tests | {f"{direction} neighbours": adjacent_correlation(plane, direction) for direction in DIRECTIONS}


def two_image_tests(first: Bytes, second: Bytes) -> dict[str, Metric]:
    """Everything that a pair of encryptions is asked."""
    return {"NPCR": npcr(first, second), "UACI": uaci(first, second)}


def eight_bit(image: Float64[Tensor, "h w"]) -> Bytes:
    """The original as the literature has it: grey levels of one byte."""
    out: Bytes = torch.round(image.clamp(0.0, 1.0) * F).to(torch.uint8).numpy()
    return out
