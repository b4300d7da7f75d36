"""`report.json` (DESIGN section 10), and the two comparisons that it may hold: with the truth, and with plaintext.

PSNR and SSIM are scikit-image's, for a stated data range; SSIM with the window of Wang, Bovik, Sheikh, Simoncelli (Image
quality assessment, IEEE Transactions on Image Processing 13 (2004), 600-612).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float, Float64
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from client.edge import Denoised
from client.files import replacing
from client.model_file import Model
from client.origin import Origin
from protocols.fixed_point import decode, encode
from protocols.float_evaluation import evaluate_float
from protocols.identifiers import Role

DATA_RANGE: Final = 1.0  # the normalised range; for DICOM the full stored range, which an image may not fill
_SSIM_WINDOW: Final = 11  # of the Gaussian window with sigma 1.5; smaller images get the largest odd window that fits


@dataclass(frozen=True)
class Quality:
    """Input and result against the truth."""

    psnr_in_db: float
    psnr_out_db: float
    ssim_in: float
    ssim_out: float
    data_range: float


@dataclass(frozen=True)
class Exactness:
    """The network on shares against the same network in floating point."""

    max_abs_diff: float
    psnr_diff_db: float | None  # of the two results against the truth; None without it


def psnr_db(truth: Float[Tensor, "h w"], image: Float[Tensor, "h w"], *, data_range: float = DATA_RANGE) -> float:
    """Peak signal-to-noise ratio; infinite for equal images."""
    if torch.equal(truth.double(), image.double()):
        return float("inf")
    return float(peak_signal_noise_ratio(truth.double().numpy(), image.double().numpy(), data_range=data_range))


def ssim(truth: Float[Tensor, "h w"], image: Float[Tensor, "h w"], *, data_range: float = DATA_RANGE) -> float:
    """Mean structural similarity."""
    side = min(truth.shape)
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    if side < _SSIM_WINDOW:
        options = {"win_size": side - 1 + side % 2}
    return float(structural_similarity(truth.double().numpy(), image.double().numpy(), data_range=data_range, **options))


def measure_quality(
    truth: Float[Tensor, "h w"],
    noisy: Float[Tensor, "h w"],
    result: Float[Tensor, "h w"],
    *,
    data_range: float = DATA_RANGE,
) -> Quality:
    """Compare input and result with the truth. Run by whoever knows it."""
    return Quality(
        psnr_db(truth, noisy, data_range=data_range),
        psnr_db(truth, result, data_range=data_range),
        ssim(truth, noisy, data_range=data_range),
        ssim(truth, result, data_range=data_range),
        data_range,
    )


def float_estimate(model: Model, pixels: Float64[Tensor, "h w"], sigma: float) -> Float64[Tensor, "h w"]:
    """What the model gives in float64 for the image and noise level as encoded. Run where weights and image meet: tests, demo.

    pixels: what the network ran on; in blind mode the packed image. Raises EncodingRangeError.
    """
    weights = {name: tensor.double() for name, tensor in model.weights.items()}
    image = decode(encode(pixels))[None, None]
    level = decode(encode(torch.tensor([sigma], dtype=torch.float64)))
    with torch.no_grad():
        return evaluate_float(model.network, weights, image, level)[0, 0]


def measure_exactness(
    denoised: Denoised,
    reference: Float64[Tensor, "h w"],
    *,
    truth: Float[Tensor, "h w"] | None = None,
    data_range: float = DATA_RANGE,
) -> Exactness:
    """Compare the network's output on shares with `float_estimate`: in blind mode before fusion. Unit: the normalised range."""
    difference = float((denoised.estimate - reference).abs().max())
    if truth is None:
        return Exactness(difference, None)
    ours, plain = (psnr_db(truth, image, data_range=data_range) for image in (denoised.estimate, reference))
    return Exactness(difference, 0.0 if ours == plain else ours - plain)


def build_report(
    denoised: Denoised,
    origin: Origin,
    *,
    version: str,
    quality: Quality | None = None,
    exactness: Exactness | None = None,
) -> dict[str, Any]:
    """The content of report.json. `quality` and `exactness` are left out where they are not known."""
    height, width = denoised.pixels.shape
    report: dict[str, Any] = {
        "version": version,
        "engine": denoised.engine,
        "image": {"source": origin.name, "height": int(height), "width": int(width), "bits": origin.bits},
        "mode": denoised.mode.value,
        "model": {"name": denoised.model, "push_id": str(denoised.push_id)},
    }
    if denoised.planes > 1:
        report["image"]["planes"] = denoised.planes
    if quality is not None:
        report["quality"] = {name: _finite(value) for name, value in vars(quality).items()}
    if exactness is not None:
        report["exactness"] = {name: _finite(value) for name, value in vars(exactness).items()}
    return {**report, "cost": _cost(denoised)}


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write report.json, whole or not at all. Raises ConfigurationError."""
    with replacing(path) as file:
        file.write(json.dumps(report, indent=1, allow_nan=False).encode() + b"\n")


def _cost(denoised: Denoised) -> dict[str, Any]:
    costs = {role: denoised.costs[role] for role in Role}
    return {
        "online_seconds": denoised.online_seconds,
        "offline_seconds": denoised.offline_seconds,
        "upload_bytes": denoised.upload_bytes,
        "download_bytes": denoised.download_bytes,
        "sent_bytes": {role.value: cost.sent_bytes for role, cost in costs.items()},
        "dealt_bytes": {role.value: cost.dealt_bytes for role, cost in costs.items()},
        "rounds": max(cost.rounds for cost in costs.values()),
        "flags": max(cost.flags for cost in costs.values()),
        "peak_rss_bytes": {role.value: cost.peak_rss_bytes for role, cost in costs.items()}
        | {"dealer": max(cost.dealer_peak_rss_bytes for cost in costs.values())},
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: the PSNR of equal images becomes null."""
    return value if value is not None and abs(value) < float("inf") else None
