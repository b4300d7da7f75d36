"""The algebra of a replay, on material dealt by `protocols.dealing`: exact where it should be, nothing where one rule is kept."""

import pytest
import torch
from torch import Tensor

from protocols import ring
from protocols.dealing import PartyMaterial, corrections
from protocols.identifiers import Role
from protocols.layers import Conv
from protocols.network import Network
from protocols.plan import Plan, WeightTriple, plan_for
from protocols.prg import Prg, derive_key
from protocols.ring import ConvGeometry
from security.replay_algebra import (
    Impulses,
    from_difference,
    impulse_height,
    same_size_convolution,
    weights_from_masked_replay,
    weights_from_replay,
)

FRAC = 12
NETWORK = Network(
    (Conv("first", "image", 3, 3, padding=1), Conv("second", "first", 1, 3, padding=1)), multiple=1, weight_frac_bits=FRAC
)
SIDE = 9
SEEDS = {role: derive_key(bytes(32), role.value.encode()) for role in Role}
OTHER_SEEDS = {role: derive_key(bytes(32), b"other", role.value.encode()) for role in Role}


def material(plan: Plan, masks: dict[str, Tensor], seeds: dict[Role, bytes]) -> dict[Role, PartyMaterial]:
    halves = {role: PartyMaterial(role, plan, seeds[role]) for role in Role}
    for index, words in corrections(plan, seeds[Role.A], seeds[Role.B], masks):
        halves[Role.B].correct(index, words)
    return halves


def run(image: Tensor, addition: Tensor, seeds: dict[Role, bytes] = SEEDS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two servers' arithmetic up to A's summand of the second opening. Returns that, b_B, the weights, the first opening."""
    plan = plan_for(NETWORK, SIDE, SIDE)
    item = plan.correlations[0]
    assert isinstance(item, WeightTriple)
    shares = {role: Prg(bytes([7]) * 32).words(position, 1, item.weight_shape) for position, role in enumerate(Role)}
    weight = Prg(bytes([8]) * 32).words(0, 0, item.weight_shape) >> 50
    masks = {
        entry.weight: Prg(bytes([9]) * 32).words(position, 0, entry.weight_shape)
        for position, entry in enumerate(plan.correlations)
        if isinstance(entry, WeightTriple)
    }
    masks[item.weight] = shares[Role.A] + shares[Role.B]
    delta = weight - masks[item.weight]
    halves = material(plan, masks, seeds)
    _, _, triple_a = halves[Role.A].take(WeightTriple)
    _, _, triple_b = halves[Role.B].take(WeightTriple)
    opened = image - triple_a.a - triple_b.a
    at_a = opened + addition
    product = triple_a.c + ring.conv2d(triple_a.a, delta, item.geometry)
    product += ring.conv2d(at_a, shares[Role.A] + delta, item.geometry)
    activation = product.div(1 << FRAC, rounding_mode="trunc")
    next_mask = halves[Role.A].take(WeightTriple)[2].a
    return activation - next_mask, shares[Role.B], weight, opened


IMPULSES = Impulses(1, SIDE, SIDE, 3)
IMAGE = Prg(bytes([3]) * 32).words(0, 0, (1, SIDE, SIDE)) >> 47  # up to one, at 16 fractional bits
NOTHING = torch.zeros_like(IMAGE)


def test_one_repeated_step_gives_all_weights_exactly() -> None:
    first, mask, weight, _ = run(IMAGE, NOTHING)
    again, *_ = run(IMAGE, IMPULSES.words(impulse_height(FRAC)))
    assert torch.equal(weights_from_replay(first, again, mask, IMPULSES, weight_frac_bits=FRAC), weight)


def test_under_fresh_material_the_same_gives_nothing() -> None:
    first, mask, weight, _ = run(IMAGE, NOTHING)
    again, *_ = run(IMAGE, IMPULSES.words(impulse_height(FRAC)), OTHER_SEEDS)
    assert not (weights_from_replay(first, again, mask, IMPULSES, weight_frac_bits=FRAC) == weight).any()


def test_two_openings_under_one_mask_give_the_other_image() -> None:
    known = IMAGE.flip(1)
    opened, again = run(IMAGE, NOTHING)[3], run(known, NOTHING)[3]
    assert torch.equal(from_difference(opened, again, known), IMAGE)
    assert not torch.equal(from_difference(opened, run(known, NOTHING, OTHER_SEEDS)[3], known), IMAGE)


def test_impulses_have_neighbourhoods_of_their_own() -> None:
    impulses = Impulses(5, 6, 9, 3)
    weight = torch.arange(2 * 5 * 9).view(2, 5, 3, 3)
    reply = ring.conv2d(impulses.words(1), weight, ConvGeometry(padding=1))
    assert torch.equal(impulses.taps(reply), weight)
    with pytest.raises(ValueError, match="no room"):
        _ = Impulses(7, 6, 9, 3).places


def test_fits_plain_convolutions_only() -> None:
    assert same_size_convolution(ConvGeometry(padding=1), 3)
    assert not same_size_convolution(ConvGeometry(padding=1, stride=2), 3)
    assert not same_size_convolution(ConvGeometry(padding=1), 5)


def test_on_the_masked_engine_the_next_summand_shows_the_weights_too() -> None:
    """A's summand is D*(w - b_B) plus what does not change; D is one larger where B's impulses were."""
    impulses = Impulses(4, SIDE, SIDE, 3)
    weight, own_mask = (Prg(bytes([n]) * 32).words(0, 0, (5, 4, 3, 3)) for n in (8, 9))
    public, rest = Prg(bytes([3]) * 32).words(0, 0, (4, SIDE, SIDE)), Prg(bytes([4]) * 32).words(0, 0, (5, SIDE, SIDE))
    geometry = ConvGeometry(padding=1)
    before, after = (ring.conv2d(words, weight - own_mask, geometry) + rest for words in (public, public + impulses.words(1)))
    assert torch.equal(weights_from_masked_replay(before, after, own_mask, impulses), weight)
    assert not torch.equal(weights_from_masked_replay(before, after + rest, own_mask, impulses), weight)  # another material
