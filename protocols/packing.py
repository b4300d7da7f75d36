"""Packing: keyed noise on an image at rest, one noise stream for each server (DESIGN section 7).

    y = x + n_A + n_B    over Z_{2^64}; x is already on the fixed-point grid, n_A = noise(K_A), n_B = noise(K_B)

*keyed*: both streams are uniform on the ring, so y alone is uniform for as long as AES-256 is a PRF. *gaussian*: each stream is
Gaussian with variance sigma_p^2 / 2, as in the literature; y leaks what `gaussian_leakage_bits` bounds. *blind*: gaussian,
but the noise is not taken off before the network runs; the edge does that afterwards (`protocols.blind`).
Packing protects storage. While a window is open the shares protect, and a server that has used its key can unpack its
own share only, which is uniform.

Assumes one nonce per upload. Two images under one nonce have the same noise, and the difference of what is stored is the
difference of the images. K_A and K_B are HKDF-SHA256 outputs (RFC 5869) of the hospital's master key, the nonce and the role;
each keys AES-256-CTR for the noise and HKDF for the key-check value.
Source of the bound: T. M. Cover and J. A. Thomas, Elements of Information Theory, 2nd ed. 2006, theorem 8.6.5 and section 9.1.
"""

import enum
import hmac
import math
import secrets
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from protocols.errors import EncodingRangeError, IntegrityError, LocalProtocolError
from protocols.fixed_point import FRAC_BITS, IMAGE_HIGH, IMAGE_LOW
from protocols.gaussian import SIGMA_LIMIT, gaussian_noise
from protocols.identifiers import Role
from protocols.prg import KEY_BYTES, Prg, derive_key
from protocols.unpicklable import Unpicklable

NONCE_BYTES: Final = 16  # random nonces: a repetition is expected after 2^64 uploads
CHECK_VALUE_BYTES: Final = 16  # a wrong key passes with probability 2^-128
SIGMA_P_MIN: Final = 2.0**-12  # one grey level of a 12-bit image hides nothing; below, rounding to the grid distorts the noise
SIGMA_P_MAX: Final = SIGMA_LIMIT  # beyond it sums are no longer exact in float64; the leakage at 2^16 is below 2^-32 bits
NOISE_LABEL: Final = 1


class PackingMode(enum.Enum):
    """What the noise is, and who takes it off. Public."""

    KEYED = "keyed"
    GAUSSIAN = "gaussian"
    BLIND = "blind"

    @property
    def stream_kind(self) -> int:
        """The modes never share a stream, even if a client packed one object twice."""
        return {PackingMode.KEYED: 0, PackingMode.GAUSSIAN: 1, PackingMode.BLIND: 2}[self]


@dataclass(frozen=True, eq=False)
class NoiseKeys(Unpicklable):
    """The noise keys of one object: K_A for server A, K_B for server B. The edge holds both, each server its own in a window."""

    key_a: bytes = field(repr=False)
    key_b: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key_a) != KEY_BYTES or len(self.key_b) != KEY_BYTES:
            raise LocalProtocolError(f"noise keys have {KEY_BYTES} bytes, not {len(self.key_a)} and {len(self.key_b)}")
        if hmac.compare_digest(self.key_a, self.key_b):
            raise LocalProtocolError("the two noise keys are equal: one server could unpack the whole image; derive them again")

    @classmethod
    def derive(cls, master: bytes, nonce: bytes) -> "NoiseKeys":
        """The keys of one object. Run by the client, and by `darkroom key export` for the edge.

        master: the hospital's key, 32 bytes. nonce: 16 bytes, fresh for every upload; public.
        Raises LocalProtocolError: a wrong length.
        """
        if len(master) != KEY_BYTES:
            raise LocalProtocolError(f"the master key has {KEY_BYTES} bytes, not {len(master)}")
        _check_nonce(nonce)
        return cls(*(derive_key(master, b"noise", nonce, role.value.encode()) for role in (Role.A, Role.B)))

    def of(self, role: Role) -> bytes:
        """The key of one server."""
        return self.key_a if role is Role.A else self.key_b


def fresh_nonce() -> bytes:
    """16 bytes from the operating system, for one upload."""
    return secrets.token_bytes(NONCE_BYTES)


def key_check_value(keys: NoiseKeys, nonce: bytes) -> bytes:
    """HKDF(K_A K_B, nonce, "kcv"): stored beside the object; public, says nothing about the keys. Run by the client.

    Raises LocalProtocolError: a nonce of the wrong length.
    """
    _check_nonce(nonce)
    return derive_key(keys.key_a + keys.key_b, nonce, b"kcv", length=CHECK_VALUE_BYTES)


def check_keys(keys: NoiseKeys, nonce: bytes, expected: bytes) -> None:
    """Refuse keys of another object or hospital. Run by the edge before anything is sent; constant time.

    Raises IntegrityError: the keys do not belong to the object. LocalProtocolError: a nonce of the wrong length.
    """
    if not hmac.compare_digest(key_check_value(keys, nonce), expected):
        raise IntegrityError("wrong key: these noise keys are not those of this object; ask the hospital that stored it for them")


def noise(key: bytes, mode: PackingMode, shape: tuple[int, ...], sigma_p: float = 0.0) -> Int64[Tensor, "..."]:
    """One server's noise: uniform ring words (keyed), or Gaussian with variance sigma_p^2 / 2 on the grid of 2^-16.

    sigma_p: standard deviation of n_A + n_B, unit of the image; 0 in keyed mode, which has none.
    Raises EncodingRangeError: sigma_p outside [2^-12, 2^16] or NaN. LocalProtocolError: a sigma_p in keyed mode; a bad key.
    """
    prg = Prg(key)
    if mode is PackingMode.KEYED:
        if sigma_p != 0.0:
            raise LocalProtocolError(f"keyed packing has no sigma_p, got {sigma_p:g}; use mode gaussian or blind")
        return prg.words(NOISE_LABEL, mode.stream_kind, shape)
    _check_sigma_p(sigma_p)
    return gaussian_noise(prg, NOISE_LABEL, mode.stream_kind, shape, sigma_p / math.sqrt(2.0))


def total_noise(keys: NoiseKeys, mode: PackingMode, shape: tuple[int, ...], sigma_p: float = 0.0) -> Int64[Tensor, "..."]:
    """n_A + n_B over Z_{2^64}. Run by the client to pack, and by the edge in blind mode to check and to fuse.

    Raises as `noise`.
    """
    return noise(keys.key_a, mode, shape, sigma_p) + noise(keys.key_b, mode, shape, sigma_p)


def pack(
    image_words: Int64[Tensor, "*shape"], keys: NoiseKeys, mode: PackingMode, sigma_p: float = 0.0
) -> Int64[Tensor, "*shape"]:
    """Pack an image: y = x + n_A + n_B. Run by the client, before sharing.

    image_words: Z_{2^64}, 16 fractional bits, from `encode_image`. sigma_p: as for `noise`.
    Raises EncodingRangeError: sigma_p out of range; in blind mode, a packed pixel outside [-1, 2], because the network
    runs on y and its bounds are measured over that interval (DESIGN section 6, Bounds). LocalProtocolError: as `noise`.
    """
    packed = image_words + total_noise(keys, mode, tuple(image_words.shape), sigma_p)
    if mode is PackingMode.BLIND and packed.numel():
        low, high = (float(limit) / (1 << FRAC_BITS) for limit in (packed.min(), packed.max()))
        if low < IMAGE_LOW or high > IMAGE_HIGH:
            raise EncodingRangeError(
                f"with sigma_p = {sigma_p:g} the packed pixels span [{low:.2f}, {high:.2f}], not within"
                f" [{IMAGE_LOW:g}, {IMAGE_HIGH:g}] where the network is exact; use a smaller sigma_p (0.15 will do)"
            )
    return packed


def unpack_share(share: Int64[Tensor, "*shape"], key: bytes, mode: PackingMode, sigma_p: float = 0.0) -> Int64[Tensor, "*shape"]:
    """Take this server's noise off its own share. Run by each server inside the window; A's and B's results share x.

    Raises LocalProtocolError: blind mode, where the noise stays in; or as `noise`. EncodingRangeError: as `noise`.
    """
    if mode is PackingMode.BLIND:
        raise LocalProtocolError("blind packing is never unpacked on a server: no server gets a noise key in this mode")
    return share - noise(key, mode, tuple(share.shape), sigma_p)


def gaussian_leakage_bits(variance_x: float, sigma_p: float) -> float:
    """At most this many bits per pixel, *on average over the pixels*, does a gaussian-packed image tell whoever sees y.

    I(x; y) / N <= 1/2 log2(1 + Var(x) / sigma_p^2) for N pixels of average prior variance Var(x): a Gaussian maximises the
    entropy of y for a given variance, independent pixels maximise it for given variances, and log is concave.
    It holds for the average only. A feature that many pixels share leaks far more than its part of this average:
    averaging N pixels divides the noise variance by N and leaves a common mean as it is. See `mean_leakage_bits`.

    variance_x and sigma_p^2 in one unit. Raises EncodingRangeError: sigma_p out of range; a negative or non-finite variance.
    """
    _check_sigma_p(sigma_p)
    if not 0.0 <= variance_x < math.inf:
        raise EncodingRangeError(f"a variance of {variance_x:g} is not a finite number of at least 0")
    return 0.5 * math.log1p(variance_x / (sigma_p * sigma_p)) / math.log(2.0)


def mean_leakage_bits(variance_of_mean: float, sigma_p: float, pixels: int) -> float:
    """The bound for the mean of a region: 1/2 log2(1 + pixels * Var(mean) / sigma_p^2) bits for that one number.

    variance_of_mean: of the region's mean, under the observer's prior. Grows without limit with the number of pixels.
    Raises EncodingRangeError: as `gaussian_leakage_bits`, or fewer than one pixel.
    """
    if pixels < 1:
        raise EncodingRangeError(f"a region of {pixels} pixels has no mean")
    return gaussian_leakage_bits(pixels * variance_of_mean, sigma_p)


def region_leakage_bits(image: Float[Tensor, "h w"], sigma_p: float, *, side: int) -> Float64[Tensor, "rows cols"]:
    """`gaussian_leakage_bits` for each region of side x side pixels (the last row and column of regions may be smaller).

    Var of a region is the mean square distance of its pixels from the mean of the *whole image*: the observer is taken to
    know that mean and no more, so an even but bright region leaks. Weighted by size, these variances average to the image's.
    Per pixel and on average within each region; *not* less for the mean of a region's pixels (`mean_leakage_bits`).
    Raises EncodingRangeError: as `gaussian_leakage_bits`, or a side below 1.
    """
    if side < 1:
        raise EncodingRangeError(f"a region of side {side} has no pixels")
    squares = (image.double() - image.double().mean()).square()
    rows = [torch.split(row, side, dim=1) for row in torch.split(squares, side, dim=0)]
    bits = [[gaussian_leakage_bits(float(region.mean()), sigma_p) for region in row] for row in rows]
    return torch.tensor(bits, dtype=torch.float64)


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_BYTES:
        raise LocalProtocolError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")


def _check_sigma_p(sigma_p: float) -> None:
    if not SIGMA_P_MIN <= sigma_p <= SIGMA_P_MAX:
        raise EncodingRangeError(f"sigma_p = {sigma_p:g} is outside [2^-12, 2^16] (a standard deviation; the image is in [0, 1])")
