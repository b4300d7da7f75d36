"""Blind packing at the edge: is the residual the predicted noise, and how much of the network's estimate to use.

The network ran on y = x + a + n: x the image without noise, a the acquisition noise, n the packing noise, which the edge can
compute from its keys. c is the network's output on y, and u = y - n = x + a is the image as it was acquired.
Assumes n is independent of x and a, with independent Gaussian pixels (`protocols.gaussian`; its rounding to the grid is
negligible for every sigma_p that `protocols.packing` allows). Nothing here protects against a server that
adds errors on purpose: the test finds wrong keys and destroyed results, it is no authentication code.

Sources: C. M. Stein, Estimation of the mean of a multivariate normal distribution, Annals of Statistics 9 (1981), 1135-1151,
lemma 1; J. M. Bates and C. W. J. Granger, The combination of forecasts, Operational Research Quarterly 20 (1969), 451-468.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from protocols.errors import EncodingRangeError, IntegrityError, LocalProtocolError
from protocols.unpicklable import Unpicklable

FALSE_ACCEPT: Final = 1e-9  # one wrong key in a thousand million passes; the key-check value has refused it long before
MIN_PIXELS: Final = 64  # the smallest image, 8x8, still has a threshold (0.67) that a right key can reach


@dataclass(frozen=True)
class ResidualStatistic:
    """A residual test that was passed. Public."""

    correlation: float
    threshold: float
    pixels: int


@dataclass(frozen=True, eq=False)
class FusedImage(Unpicklable):
    """The edge's result in blind mode. The shape is public, the pixels are not."""

    pixels: Tensor = field(repr=False)
    weight: float  # of the network's estimate; 1 - weight is that of y - n
    divergence: float  # of the network, per pixel, as estimated


def residual_test(
    packed: Float[Tensor, "*shape"],
    estimate: Float[Tensor, "*shape"],
    noise: Float[Tensor, "*shape"],
    *,
    false_accept: float = FALSE_ACCEPT,
) -> ResidualStatistic:
    """Check that the residual y - c is the predicted noise n. Run by the edge, in blind mode.

    The statistic is the centred Pearson correlation r of y - c with n, over all N pixels. Under a wrong key n has nothing to
    do with the residual, and then, *whatever* the residual is, r sqrt((N-2)/(1-r^2)) has Student's t distribution with N-2
    degrees of freedom: n has independent Gaussian pixels, so its centred direction is uniform. (Roughly r ~ N(0, 1/N).)
    Under the right key r is near sigma_p / sqrt(sigma_p^2 + sigma_a^2): one-sided.

    packed, estimate, noise: y, c, n as decoded reals. false_accept: the probability that a wrong key passes, at most.
    Raises IntegrityError: r is below the threshold, or the residual is constant or not finite. LocalProtocolError: different
    shapes, fewer than 64 pixels, or a false_accept outside (0, 0.1].
    """
    _check_shapes(packed, estimate, noise)
    count = packed.numel()
    threshold = correlation_threshold(count, false_accept)
    correlation = _correlation(packed.double() - estimate.double(), noise.double())
    if not correlation >= threshold:  # also for NaN
        raise IntegrityError(
            f"the residual is not the predicted noise: correlation {correlation:.4f}, needed {threshold:.4f} over {count} pixels;"
            " wrong noise key, or the result was damaged"
        )
    return ResidualStatistic(correlation, threshold, count)


def correlation_threshold(pixels: int, false_accept: float = FALSE_ACCEPT) -> float:
    """A correlation that independent noise reaches with probability at most false_accept, over so many pixels.

    With nu = N - 2 and the null density of r, (1-s^2)^(nu/2-1) / B(1/2, nu/2), and because s/r >= 1 under the integral,

        P(correlation > r) <= integral_r^1 (s/r) (1-s^2)^(nu/2-1) ds / B(1/2, nu/2) <= (1-r^2)^(nu/2) / (r sqrt(2 pi nu)),

    where B(1/2, nu/2) >= sqrt(2 pi / nu) by the log-convexity of gamma. This is the normal tail's Mills bound, carried over to t;
    valid for every N, and at 1e-9 about 3 % above the exact probability. It falls with r, so bisection solves it.
    Raises LocalProtocolError: fewer than 64 pixels, or a false_accept outside (0, 0.1].
    """
    if pixels < MIN_PIXELS:
        raise LocalProtocolError(f"the residual test needs at least {MIN_PIXELS} pixels, not {pixels}")
    if not 0.0 < false_accept <= 0.1:
        raise LocalProtocolError(f"a false-accept probability of {false_accept:g} is outside (0, 0.1]")
    nu = pixels - 2
    low, high = 0.0, 1.0
    for _ in range(60):  # to the last bit of a float64
        middle = 0.5 * (low + high)
        log_bound = 0.5 * nu * math.log1p(-middle * middle) - math.log(middle) - 0.5 * math.log(2.0 * math.pi * nu)
        low, high = (low, middle) if log_bound <= math.log(false_accept) else (middle, high)
    return high


def fuse(
    packed: Float[Tensor, "*shape"],
    estimate: Float[Tensor, "*shape"],
    noise: Float[Tensor, "*shape"],
    sigma_a: float,
) -> FusedImage:
    """Combine the network's estimate c with u = y - n, the acquired image. Run by the edge, in blind mode.

    w c + (1-w) u has the least mean square error at (Bates and Granger 1969)

        w = (sa^2 - cov) / (sa^2 + sc^2 - 2 cov),    sa^2 = E a^2,  sc^2 = E (c-x)^2,  cov = E a (c-x),

    and all of it can be had without x. The denominator is E (c-u)^2: measured (about zero, not about the mean, so that a
    bias of the network counts). For the numerator Stein's lemma is used twice. For noise n that is independent of
    x + a, E n c = sigma_p^2 D with D = E dc_i/dy_i, the divergence of the network per pixel; n is known, so D is the regression
    coefficient of c on n. Taking u from c first changes nothing in E n c, since n is independent of u, and removes
    most of the variance. For a, also white, Gaussian and independent of x and n, E a (c-x) = E a c = sa^2 D. Hence

        w = sa^2 (1 - D) / mean (c-u)^2,    D = sum n (c-u) / sum n^2.

    Assumes moreover that the network is weakly differentiable and that a has the same sigma_a everywhere; for
    signal-dependent noise (Rician, Poisson) w is a compromise. The errors of c and u correlate, as c was computed from
    u + n: the weight with cov = 0 can be worse than c alone.

    w is clamped to [0, 1]. Beyond, fusion would extrapolate: above 1 if sc^2 < cov, below 0 if D > 1. Either may be the
    true optimum, but an estimate that says so is mostly the sign of a wrong sigma_a, and extrapolation has no bound on
    its error. A convex combination has: at each pixel it is no further from the truth than the worse of the two.

    packed, estimate, noise: y, c, n as decoded reals, [0, 1] nominal. sigma_a: standard deviation of a, same unit; 0 gives
    w = 0, since y - n is then the truth. Call `residual_test` first: fusion with a wrong n has no meaning.
    Raises EncodingRangeError: sigma_a negative or not finite. LocalProtocolError: different shapes, or noise that is zero.
    """
    _check_shapes(packed, estimate, noise)
    if not 0.0 <= sigma_a < math.inf:
        raise EncodingRangeError(f"an acquisition noise of {sigma_a:g} is not a finite number of at least 0")
    acquired = packed.double() - noise.double()
    difference = estimate.double() - acquired
    power = float(noise.double().square().sum())
    if power == 0.0:
        raise LocalProtocolError("the packing noise is zero everywhere: this image was not packed blind")
    divergence = float((noise.double() * difference).sum()) / power
    denominator = float(difference.square().mean())
    weight = sigma_a * sigma_a * (1.0 - divergence) / denominator if denominator > 0.0 else 0.0
    weight = min(max(weight, 0.0), 1.0)
    return FusedImage(acquired + weight * difference, weight, divergence)


def _correlation(left: Tensor, right: Tensor) -> float:
    """Centred Pearson correlation; NaN when either side is constant or not finite."""
    left = left - left.mean()
    right = right - right.mean()
    return float((left * right).sum() / torch.sqrt(left.square().sum() * right.square().sum()))


def _check_shapes(packed: Tensor, estimate: Tensor, noise: Tensor) -> None:
    if not packed.shape == estimate.shape == noise.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (packed, estimate, noise))
        raise LocalProtocolError(f"packed image, estimate and noise must have one shape, not {shapes}")
