"""Blind beside keyed: the same noisy image through both, and what each gives away to whoever holds both stored shares.

Packing, residual test and fusion are the client's own code. The network runs in floating point; `bench.exactness` shows that
the servers compute the same.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Int64

from bench.quality.peers import Denoise, Plane
from bench.quality.trials import Subject
from client.acquisition import DEFAULT_PACKING_SIGMA
from protocols.blind import fuse, residual_test
from protocols.fixed_point import decode, encode_image
from protocols.packing import NoiseKeys, PackingMode, fresh_nonce, gaussian_leakage_bits, mean_leakage_bits, pack, total_noise
from protocols.prg import fresh_key
from training.quality import psnr_db

GREATEST_SIGMA: Final = 55 / 255  # that networks are trained for
REGION: Final = 16  # pixels: the side of the region whose mean is judged


@dataclass(frozen=True)
class ModeRow:
    """One mode on one subject. leaked_bits: at most, a pixel; leaked_mean_bits: of the mean of a region of 16x16, at most.

    Both are of the image that was stored, its acquisition noise included, as `darkroom store` reports them.
    """

    mode: str
    sigma: float
    psnr_db: float
    stolen_psnr_db: float  # what the network makes of the packed image, for a thief of both stores
    leaked_bits: float
    leaked_mean_bits: float


def both_modes(subject: Subject, denoise: Denoise, sigma_p: float = DEFAULT_PACKING_SIGMA) -> tuple[ModeRow, ModeRow]:
    """Keyed, then blind. Raises EncodingRangeError: packed pixels leave [-1, 2]; IntegrityError: the residual test fails."""
    words = encode_image(torch.from_numpy(subject.noisy.astype(np.float64)))
    keys = NoiseKeys.derive(fresh_key(), fresh_nonce())
    return _keyed(subject, words, keys, denoise), _blind(subject, words, keys, denoise, sigma_p)


def _keyed(subject: Subject, words: Int64[torch.Tensor, "h w"], keys: NoiseKeys, denoise: Denoise) -> ModeRow:
    """A thief denoises what the words show, or guesses mid-grey, whichever is nearer. Uniform words leak nothing."""
    sigma, shape = subject.sigma / 255, tuple(words.shape)
    packed = pack(words, keys, PackingMode.KEYED)
    result = denoise(_single(decode(packed - total_noise(keys, PackingMode.KEYED, shape))), sigma)
    seen = denoise(_single(decode(packed).clamp(0.0, 1.0)), GREATEST_SIGMA)
    stolen = max(psnr_db(picture, subject.truth) for picture in (seen, np.full_like(subject.truth, 0.5)))
    return ModeRow("keyed", subject.sigma, psnr_db(result, subject.truth), stolen, 0.0, 0.0)


def _blind(subject: Subject, words: Int64[torch.Tensor, "h w"], keys: NoiseKeys, denoise: Denoise, sigma_p: float) -> ModeRow:
    sigma = subject.sigma / 255
    packed = decode(pack(words, keys, PackingMode.BLIND, sigma_p))
    noise = decode(total_noise(keys, PackingMode.BLIND, tuple(words.shape), sigma_p))
    level = math.hypot(sigma, sigma_p)
    estimate = torch.from_numpy(denoise(_single(packed), level)).double()
    residual_test(packed, estimate, noise)
    fused = fuse(packed, estimate, noise, sigma)
    stored = torch.from_numpy(subject.noisy).double()
    regions = torch.nn.functional.avg_pool2d(stored[None, None], REGION)
    return ModeRow(
        "blind",
        subject.sigma,
        psnr_db(_single(fused.pixels), subject.truth),
        psnr_db(_single(estimate), subject.truth),
        gaussian_leakage_bits(float(stored.var(correction=0)), sigma_p),
        mean_leakage_bits(float(regions.var(correction=0)), sigma_p, REGION * REGION),
    )


def _single(pixels: torch.Tensor) -> Plane:
    return np.ascontiguousarray(pixels.numpy(), dtype=np.float32)
