"""Blind mode at the edge: false accepts and false rejects beside the exact null, and fusion beside the truth.

The 'network' is a 3x3 binomial filter on a periodic image: linear, so its divergence is its central coefficient, 1/4, exactly.
Error rate: each statistical test has probability 1e-6 of failing for a correct implementation, over the choice of the
injected keys; with the keys fixed it is deterministic.
"""

import inspect
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from protocols.blind import FALSE_ACCEPT, correlation_threshold, fuse, residual_test
from protocols.errors import DarkroomError, EncodingRangeError, IntegrityError, LocalProtocolError
from protocols.fixed_point import decode
from protocols.gaussian import gaussian_noise
from protocols.packing import NoiseKeys, PackingMode, total_noise
from protocols.prg import Prg, derive_key

VECTORS = json.loads((Path(__file__).parent / "vectors" / "blind.json").read_text())
ERROR_RATE = 1e-6
SIDE = 24
as_installed = inspect.unwrap  # shapes are type-checked under pytest only; what is shipped must refuse them itself
SIGMA_P, SIGMA_A = 25 / 255, 10 / 255
quick = settings(max_examples=60, deadline=None, database=None)


def smooth_image(side: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.arange(side, dtype=torch.float64) / side
    return 0.5 + 0.25 * torch.outer(torch.sin(angle), torch.cos(angle)) + 0.15 * torch.cos(2 * angle)


def smoothed(image: torch.Tensor) -> torch.Tensor:
    for axis in (-2, -1):
        image = 0.25 * image.roll(1, axis) + 0.5 * image + 0.25 * image.roll(-1, axis)
    return image


def packing_noise(index: int, side: int = SIDE, sigma: float = SIGMA_P) -> torch.Tensor:
    return decode(total_noise(NoiseKeys.derive(bytes(32), index.to_bytes(16, "big")), PackingMode.BLIND, (side, side), sigma))


def acquisition_noise(index: int, side: int = SIDE, sigma: float = SIGMA_A) -> torch.Tensor:
    return decode(gaussian_noise(Prg(derive_key(b"test_blind acquisition")), index, 0, (side, side), sigma))


def blind_case(index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noise = packing_noise(index)
    packed = smooth_image(SIDE) + acquisition_noise(index) + noise
    return packed, smoothed(packed), noise


def correlation(packed: torch.Tensor, estimate: torch.Tensor, noise: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([(packed - estimate).flatten(), noise.flatten()]))[0, 1])


# ---- vectors


def run_vector(vector: dict) -> tuple[str, type[DarkroomError] | None]:
    """The step that a vector stops at, and the error there."""
    shape = tuple(vector["shape"])
    image = decode(torch.tensor(vector["image"])).view(shape)
    estimate = decode(torch.tensor(vector["estimate"])).view(vector.get("estimate_shape", shape))
    keys = NoiseKeys.derive(bytes.fromhex(vector["master"]), bytes.fromhex(vector["nonce"]))
    right = NoiseKeys.derive(bytes.fromhex(VECTORS["master"]), bytes.fromhex(VECTORS["nonce"]))
    sigma_p = float.fromhex(vector["sigma_p"])
    packed = image + decode(total_noise(right, PackingMode.BLIND, shape, sigma_p))
    noise = decode(total_noise(keys, PackingMode.BLIND, shape, sigma_p))
    step = "residual_test"
    try:
        statistic = as_installed(residual_test)(packed, estimate, noise)
        step = "fuse"
        fused = fuse(packed, estimate, noise, float.fromhex(vector["sigma_a"]))
    except DarkroomError as error:
        return step, type(error)
    found = (statistic.correlation, fused.divergence, fused.weight)
    expected = (vector["correlation"], vector["divergence"], vector["weight"])
    return ("none" if found == pytest.approx(expected, rel=1e-9) else "compare"), None


def test_vector():
    assert run_vector(VECTORS) == ("none", None)


@pytest.mark.parametrize("tampered", VECTORS["tampered"], ids=lambda v: v["name"])
def test_tampered_vector_fails_at_the_named_step(tampered):
    step, error = run_vector(VECTORS | tampered["change"])
    assert step == tampered["step"]
    wrong_size = "estimate_shape" in tampered["change"]
    assert error is {"residual_test": LocalProtocolError if wrong_size else IntegrityError, "fuse": EncodingRangeError}.get(step)


# ---- the residual test

WRONG_KEYS, RIGHT_KEYS = 2000, 1000


@pytest.fixture(scope="module")
def wrong_noise() -> list[torch.Tensor]:
    """The noise of keys that did not pack the image."""
    return [packing_noise(10_000 + i) for i in range(WRONG_KEYS)]


@pytest.mark.slow
def test_wrong_keys_follow_the_exact_null(wrong_noise):
    packed, estimate, _ = blind_case(0)
    r = torch.tensor([correlation(packed, estimate, noise) for noise in wrong_noise], dtype=torch.float64)
    nu = SIDE * SIDE - 2
    t = r * torch.sqrt(nu / (1 - r.square()))
    assert stats.kstest(t.numpy(), stats.t(nu).cdf).pvalue > ERROR_RATE
    assert stats.kstest(t.numpy() * 1.4, stats.t(nu).cdf).pvalue < ERROR_RATE  # the test has power


def accepted(packed: torch.Tensor, estimate: torch.Tensor, noise: torch.Tensor, false_accept: float) -> bool:
    try:
        residual_test(packed, estimate, noise, false_accept=false_accept)
    except IntegrityError:
        return False
    return True


@pytest.mark.slow
def test_false_accepts(wrong_noise):
    """At 1e-9 none of 2,000 wrong keys; at 1e-2 as many as the exact tail of the threshold says."""
    packed, estimate, _ = blind_case(0)
    assert not any(accepted(packed, estimate, noise, FALSE_ACCEPT) for noise in wrong_noise)
    count = sum(accepted(packed, estimate, noise, 0.01) for noise in wrong_noise)
    exact = exact_tail(correlation_threshold(SIDE * SIDE, 0.01), SIDE * SIDE)
    low, high = stats.binom.interval(1 - ERROR_RATE, WRONG_KEYS, exact)
    assert exact <= 0.01
    assert low <= count <= high


@pytest.mark.slow
def test_false_rejects():
    """None of 1,000 right keys: the rate is below 0.3 % at 95 % confidence; the margin to the threshold says it is far below."""
    threshold = correlation_threshold(SIDE * SIDE)
    found = torch.tensor([residual_test(*blind_case(i)).correlation for i in range(RIGHT_KEYS)])
    assert len(found) == RIGHT_KEYS
    assert float(found.mean() - threshold) > 15 * float(found.std())


@pytest.mark.parametrize("offset", [-5.0, 0.3, 100.0])
def test_a_constant_offset_changes_nothing(offset):
    packed, estimate, noise = blind_case(1)
    plain = residual_test(packed, estimate, noise).correlation
    assert residual_test(packed, estimate + offset, noise).correlation == pytest.approx(plain, abs=1e-9)
    assert residual_test(packed, estimate, noise + offset).correlation == pytest.approx(plain, abs=1e-9)


def test_a_residual_that_is_the_noise_upside_down_is_refused():
    packed, _, noise = blind_case(2)
    with pytest.raises(IntegrityError):
        residual_test(packed, packed + noise, noise)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    packed, estimate, noise = blind_case(3)
    estimate[5, 5] = bad
    with pytest.raises(IntegrityError, match="not the predicted noise"):
        residual_test(packed, estimate, noise)


def test_a_constant_residual_is_refused():
    packed, _, noise = blind_case(3)
    with pytest.raises(IntegrityError):
        residual_test(packed, packed, noise)


def test_a_result_opened_with_one_wrong_share_is_refused():
    packed, _, noise = blind_case(4)
    garbage = decode(Prg(derive_key(b"garbage")).words(0, 0, (SIDE, SIDE)))
    with pytest.raises(IntegrityError):
        residual_test(packed, garbage, noise)


def test_shapes_are_not_broadcast():
    packed, estimate, noise = blind_case(5)
    with pytest.raises(LocalProtocolError, match="one shape"):
        as_installed(residual_test)(packed, estimate[:1], noise)
    with pytest.raises(LocalProtocolError, match="one shape"):
        as_installed(fuse)(packed, estimate, noise[None], SIGMA_A)


def exact_tail(r: float, pixels: int) -> float:
    return float(stats.t.sf(r * math.sqrt((pixels - 2) / (1 - r * r)), pixels - 2))


@given(st.integers(64, 10**8), st.floats(-12, -1))
@quick
def test_the_threshold_keeps_what_it_promises(pixels, exponent):
    exact = exact_tail(correlation_threshold(pixels, 10.0**exponent), pixels)
    assert exact <= 10.0**exponent * (1 + 1e-6)  # scipy's own accuracy
    assert exact >= 10.0**exponent * 0.7  # and wastes little


def test_the_threshold_at_the_default_rate_is_three_percent_from_exact():
    for pixels in (576, 512 * 512):
        assert 0.96e-9 < exact_tail(correlation_threshold(pixels), pixels) < 1e-9


@pytest.mark.parametrize(("pixels", "rate"), [(63, 1e-9), (0, 1e-9), (64, 0.0), (64, -1.0), (64, 0.11), (64, math.nan)])
def test_a_threshold_that_means_nothing_is_refused(pixels, rate):
    with pytest.raises(LocalProtocolError):
        correlation_threshold(pixels, rate)


# ---- fusion


def mean_squares(sigma_p: float, sigma_a: float, *, images: int = 12, side: int = 64) -> dict[str, float]:
    """Mean square errors over several images: of the estimate, of y - n, fused, and fused as if the errors did not correlate."""
    truth, total = smooth_image(side), dict.fromkeys(("estimate", "acquired", "fused", "uncorrelated", "best"), 0.0)
    for index in range(images):
        error = acquisition_noise(index, side, sigma_a)
        noise = packing_noise(index, side, sigma_p)
        packed = truth + error + noise
        estimate, acquired = smoothed(packed), truth + error
        sc2, sa2 = float((estimate - truth).square().mean()), float(error.square().mean())
        naive = sa2 / (sa2 + sc2)  # with the true variances, so only the missing correlation is to blame
        best = float((error * (acquired - estimate)).mean() / (acquired - estimate).square().mean())  # of the errors themselves
        best = min(max(best, 0.0), 1.0)
        results = {
            "estimate": estimate,
            "acquired": acquired,
            "fused": fuse(packed, estimate, noise, sigma_a).pixels,
            "uncorrelated": naive * estimate + (1 - naive) * acquired,
            "best": best * estimate + (1 - best) * acquired,
        }
        for name, result in results.items():
            total[name] += float((result - truth).square().mean()) / images
    return total


@pytest.mark.parametrize(
    ("sigma_p", "sigma_a"), [(50 / 255, 10 / 255), (25 / 255, 10 / 255), (20 / 255, 20 / 255), (5 / 255, 20 / 255)]
)
def test_fusion_is_at_least_as_good_as_each_alone(sigma_p, sigma_a):
    errors = mean_squares(sigma_p, sigma_a)
    assert errors["fused"] <= 1.01 * min(errors["estimate"], errors["acquired"])
    assert errors["fused"] <= 1.005 * errors["uncorrelated"]
    assert errors["fused"] <= 1.01 * errors["best"]


def test_fusion_gains_where_both_are_of_use():
    errors = mean_squares(25 / 255, 10 / 255)
    assert errors["fused"] < 0.9 * min(errors["estimate"], errors["acquired"])


def test_ignoring_the_correlation_is_worse_than_the_network_alone():
    errors = mean_squares(20 / 255, 20 / 255)
    assert errors["uncorrelated"] > 1.03 * errors["estimate"]
    assert errors["fused"] <= 1.005 * errors["estimate"]


def test_the_divergence_of_a_linear_filter_is_its_central_coefficient():
    found = []
    for index in range(50):
        packed, estimate, noise = blind_case(index)
        found.append(fuse(packed, estimate, noise, SIGMA_A).divergence)
    estimates = torch.tensor(found, dtype=torch.float64)
    error = float(estimates.std()) / math.sqrt(len(found))
    assert abs(float(estimates.mean()) - 0.25) < stats.t.isf(ERROR_RATE / 2, len(found) - 1) * error
    assert error < 0.005


def test_without_acquisition_noise_the_acquired_image_is_the_result():
    packed, estimate, noise = blind_case(0)
    fused = fuse(packed, estimate, noise, 0.0)
    assert fused.weight == 0.0
    assert torch.equal(fused.pixels, packed - noise)


@given(st.floats(0, 10))
@quick
def test_the_fused_image_lies_between_the_two(sigma_a):
    packed, estimate, noise = blind_case(0)
    fused = fuse(packed, estimate, noise, sigma_a)
    acquired = packed - noise
    assert 0.0 <= fused.weight <= 1.0
    assert bool((fused.pixels >= torch.minimum(estimate, acquired) - 1e-12).all())
    assert bool((fused.pixels <= torch.maximum(estimate, acquired) + 1e-12).all())


def test_a_network_that_overshoots_gets_no_weight():
    packed, _, noise = blind_case(0)
    assert fuse(packed, packed + 0.5 * noise, noise, SIGMA_A).weight == 0.0  # divergence 1.5


def test_an_estimate_equal_to_the_acquired_image_is_returned():
    packed, _, noise = blind_case(0)
    assert torch.equal(fuse(packed, packed - noise, noise, SIGMA_A).pixels, packed - noise)


def test_an_image_that_was_not_packed_blind_is_refused():
    packed, estimate, noise = blind_case(0)
    with pytest.raises(LocalProtocolError, match="not packed blind"):
        fuse(packed, estimate, torch.zeros_like(noise), SIGMA_A)


@pytest.mark.parametrize("sigma_a", [-0.1, math.nan, math.inf])
def test_sigma_a_out_of_range_is_refused(sigma_a):
    with pytest.raises(EncodingRangeError, match="acquisition noise"):
        fuse(*blind_case(0), sigma_a)
