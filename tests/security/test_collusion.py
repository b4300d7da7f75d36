"""The algebra of edge and dealer on dealt views, what a thief's tests see, and the verdicts of both."""

import math

import pytest
import torch

from protocols import dealing
from protocols.fixed_point import encode_image
from protocols.identifiers import MaterialId, PushId, Role
from protocols.oracle import evaluate_oracle
from protocols.packing import NoiseKeys, PackingMode, fresh_nonce, noise, pack
from protocols.plan import plan_for
from protocols.prg import Prg, derive_key, fresh_key
from security import theft
from security.collusion import _attack, _edge_with_dealer_masked
from security.edge_dealer import (
    FILTERS,
    FRAC,
    SESSIONS,
    SIDE,
    View,
    null_changes,
    predicted_words,
    random_weights,
    small_network,
    solve_filter,
    try_masked_candidates,
)
from tests.protocols.joined_parties import run_parties

IMAGES = [(Prg(fresh_key()).words(0, 0, (SIDE, SIDE)) & 255).double() / 256 for _ in range(SESSIONS)]


def dealt_views(weights: torch.Tensor, *, padded: bool) -> list[View]:
    """What edge and dealer would see, from the engine's formula alone."""
    plan = plan_for(small_network(), SIDE, SIDE)
    push, key = PushId.fresh(), fresh_key()
    push_seeds = {role: dealing.push_seed(key, role, push, plan.network_digest) for role in Role}
    views = []
    for pixels in IMAGES:
        material = MaterialId.fresh()
        seeds = {role: dealing.session_seed(key, role, material, b"") for role in Role}
        blank = View(plan, encode_image(pixels).unsqueeze(0), seeds, push_seeds, {})
        pad = Prg(fresh_key()).words(0, 0, (FILTERS,)) * int(padded)
        shares = {Role.A: blank.share_for(Role.A, weights) + pad, Role.B: blank.share_for(Role.B, weights) - pad}
        views.append(View(plan, blank.image, seeds, push_seeds, shares))
    return views


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    return random_weights()


def test_the_formula_is_the_network(weights):
    for view in dealt_views(weights, padded=True):
        exact = evaluate_oracle(small_network(), {"filters.weight": weights}, view.image, 0).flatten()
        assert int((view.result - exact).abs().max()) <= 1  # the last-place carry


def test_without_a_pad_the_weights_are_solved(weights):
    views = dealt_views(weights, padded=False)
    for number in (0, FILTERS - 1):
        assert solve_filter(views, number) == weights[number].flatten().tolist()


def test_with_a_pad_nothing_is_claimed(weights):
    views = dealt_views(weights, padded=True)
    assert solve_filter(views, 0) is None


def test_changes_are_invisible_and_not_zero(weights):
    views = dealt_views(weights, padded=True)
    changes = null_changes(views)
    assert len(changes) >= 5**5 - 1
    assert bool(changes.ne(0).any(1).all())
    for view in views:
        assert not (changes @ view.image[0, :3, :3].flatten()).any()


def test_the_attack_holds_on_the_pad_and_catches_its_absence(weights):
    padded, carry_bits = _attack(dealt_views(weights, padded=True), weights, 2, True)
    bare, _ = _attack(dealt_views(weights, padded=False), weights, 2, False)
    assert padded.holds
    assert not bare.holds
    assert bare.figures == {"filters": 2.0, "solved": 2.0, "explained_otherwise": 0.0}
    assert 0.0 < carry_bits < 8.0


def masked_views(weights: torch.Tensor) -> list[View]:
    """What edge and dealer would see of the masked engine, from both parties' evaluation, output shares as they are."""
    views = []
    for number, pixels in enumerate(IMAGES):
        seed, image = bytes([number]) * 32, encode_image(pixels).unsqueeze(0)
        joined = run_parties(small_network(), {"filters.weight": weights}, image, 0, seed=seed)
        push = PushId(derive_key(seed, b"push").hex()[:32])
        push_seeds = {role: dealing.push_seed(seed, role, push, small_network().digest) for role in Role}
        shares = {role: joined.results[role].share.flatten() for role in Role}
        views.append(View(joined.plan, image, joined.seeds, push_seeds, shares))
    return views


def test_on_the_masked_engine_shares_are_a_function_of_the_result_and_of_what_the_dealer_knows(weights):
    views = masked_views(weights)
    assert predicted_words(views) == SESSIONS * 2 * FILTERS
    tried = try_masked_candidates(views, weights)
    assert bool(tried.same_shares.all())
    assert tried.explained_unpadded == FILTERS
    assert tried.carry_bits == 0.0


def test_on_the_masked_engine_weights_of_another_function_are_found_out(weights):
    """So the comparison can fail: the candidates are right because y is the same, not because everything passes."""
    assert not try_masked_candidates(masked_views(weights), weights + 5).same_result.any()


def test_a_share_that_is_no_function_of_the_result_is_found(weights):
    views = masked_views(weights)
    views[0].shares[Role.A][3] += 1
    views[0].shares[Role.B][3] -= 1
    assert predicted_words(views) == SESSIONS * 2 * FILTERS - 2


def test_the_general_engine_is_caught_by_the_masked_engines_check(weights):
    check, text = _edge_with_dealer_masked(masked_views(weights), dealt_views(weights, padded=False), weights)
    assert check.passed
    assert "masked engine" in text


def test_weights_are_on_the_grid():
    weights = random_weights()
    assert int(weights.abs().max()) <= 1 << FRAC
    assert len(weights.unique()) > 300


# --- stolen stores ---


IMAGE = (torch.linspace(0, 3, 64 * 64, dtype=torch.float64).sin() ** 2).view(64, 64)


def _keys() -> NoiseKeys:
    return NoiseKeys.derive(fresh_key(), fresh_nonce())


def test_keyed_packing_leaves_no_trace_and_gaussian_does():
    keyed = pack(encode_image(IMAGE), _keys(), PackingMode.KEYED)
    gaussian = pack(encode_image(IMAGE), _keys(), PackingMode.GAUSSIAN, 0.5)
    assert min(theft.traces(IMAGE, keyed).values()) > 1e-8
    assert min(theft.traces(IMAGE, gaussian).values()) < 1e-12


def test_noise_of_the_right_strength_passes_and_half_of_it_does_not():
    keys, sigma = _keys(), 0.1
    halves = [noise(keys.of(role), PackingMode.GAUSSIAN, (64, 64), sigma).double() / 65536 for role in Role]
    assert min(theft.noise_checks(halves[0] + halves[1], sigma, 16).values()) > 1e-8
    assert min(theft.noise_checks(halves[0], sigma, 16).values()) < 1e-12


def test_strong_noise_is_averaged_first():
    noisy = torch.zeros(64, 64, dtype=torch.float64)
    small, level = theft.reduced(noisy, 200 / 255, theft.TRAINED_TO)
    assert small.shape == (16, 16)
    assert level == pytest.approx(50 / 255)
    smallest, _ = theft.reduced(noisy, 100.0, theft.TRAINED_TO)
    assert smallest.shape == (theft.SMALLEST, theft.SMALLEST)
    assert theft.enlarged(small, noisy.shape).shape == noisy.shape


def test_loot_does_not_print():
    words = Prg(fresh_key()).words(0, 0, (8, 8))
    assert str(int(words[0, 0])) not in repr(theft.Loot(theft.pb.StoreHeader(), words, words))


def test_a_constant_side_counts_as_a_trace():
    assert theft.correlation_p(torch.ones(8), torch.arange(8.0)) == 0.0
    assert not math.isnan(theft.correlation_p(torch.arange(8.0), torch.arange(8.0)))
