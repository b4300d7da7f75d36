"""What a server of the masked engine sees: uniform words, whatever the image, and nothing twice under one mask.

Chi-square of the eight byte positions over everything that a server receives, of each opened wire, and of the differences of all
pairs of opened wires of one size (under one mask they would be differences of secrets). Each family of tests has a family-wise
error rate of 1e-6 (Bonferroni); seeds are injected, so the tests are deterministic, and a correct implementation had this
probability of failing when the seeds were chosen. The twins show that each family fails when the property is taken away.
"""

import itertools

import pytest
import torch

from protocols import masked_dealing
from protocols.dealing import session_seed
from protocols.fixed_point import encode
from protocols.identifiers import MaterialId, Role
from protocols.layers import Conv, Scale
from protocols.masked_dealing import Stream
from protocols.masked_oracle import masked_oracle
from protocols.masked_plan import masked_plan
from protocols.network import IMAGE_WIRE, Network
from protocols.prg import Prg, derive_key
from tests.protocols.covered_layers import covered_layers, full_masks, is_bits, name_of, opened_wires, oracle_of
from tests.protocols.every_layer import encoded_weights, image_of, weights_of
from tests.protocols.joined_parties import run_parties
from tests.protocols.test_sharing import uniformity_p_value

FAMILY_ERROR_RATE = 1e-6
FEWEST_WORDS = 1280  # five expected per byte value: below that chi-square is no approximation
SEED, OTHER_SEED = bytes(range(32)), bytes(32)
SIGMA = 25 * 65536 // 255
SIZE = (96, 96)


def evaluated(network, size=SIZE, *, seed=SEED, image_seed=2):
    image, encoded = encode(image_of(*size, image_seed)), encoded_weights(network, weights_of(network))
    joined = run_parties(network, encoded, image, SIGMA, seed=seed)
    assert torch.equal(joined.output, oracle_of(joined, encoded, image, SIGMA)[0])
    return joined


def views(joined):
    """All that a server receives, and what both see; small tensors put together."""
    dealt = [f"correction {place} of {name_of(item)}" for item in joined.plan.items for place in range(len(item.dealt_shapes))]
    seen = dict(zip(dealt, joined.corrections, strict=True))
    seen |= {f"opened at {name}": words for name, words in opened_wires(joined).items()}
    for role in Role:
        for index, blocks in enumerate(joined.sent[role]):
            seen[f"{role.value}'s message {index}"] = torch.cat([block.flatten() for block in blocks])
    large = {name: words for name, words in seen.items() if words.numel() >= FEWEST_WORDS}
    for kind in ("correction", "opened"):
        small = [words.flatten() for name, words in seen.items() if name.startswith(kind) and name not in large]
        if sum(map(len, small)) >= FEWEST_WORDS:
            large[f"all small: {kind}"] = torch.cat(small)
    return large


def differences(joined):
    """Of all pairs of opened wires of one size."""
    named = [(name, words.flatten()) for name, words in opened_wires(joined).items() if words.numel() >= FEWEST_WORDS]
    return {f"{a} - {b}": x - y for (a, x), (b, y) in itertools.combinations(named, 2) if x.shape == y.shape}


def suspicious(samples):
    """Names of the samples that are not uniform, at the family-wise error rate."""
    rate = FAMILY_ERROR_RATE / len(samples)
    return [name for name, words in samples.items() if uniformity_p_value(words) < rate]


@pytest.fixture(scope="module")
def honest():
    return evaluated(covered_layers())


def test_everything_that_a_server_receives_is_uniform(honest):
    samples = views(honest)
    assert len(samples) > 40
    assert suspicious(samples) == []


def test_no_mask_is_used_for_two_wires(honest):
    samples = differences(honest)
    assert len(samples) > 15
    assert suspicious(samples) == []
    masks = {name: mask.flatten() for name, mask in full_masks(honest).items() if mask.numel() >= FEWEST_WORDS}
    assert suspicious(masks) == []  # r itself: uniform for each wire


def test_two_sessions_have_nothing_in_common(honest):
    other = evaluated(covered_layers(), seed=OTHER_SEED, image_seed=3)
    first, second = opened_wires(honest), opened_wires(other)
    changes = {name: second[name] - words for name, words in first.items() if words.numel() >= FEWEST_WORDS}
    assert suspicious(changes) == []


# --- twins ---


def seed_of_a():
    return session_seed(SEED, Role.A, MaterialId(derive_key(SEED, b"material").hex()[:32]), b"context")


class Negated:
    def __init__(self, reader):
        self._reader = reader

    def words(self, count):
        return self._reader.words(count).neg_()

    def fill(self, out):
        return self._reader.fill(out).neg_()


class CancellingPrg(Prg):
    """e and the inputs' masks of A and B are uniform and cancel, so every r is zero; A's shares of truncated masks stay."""

    bits = frozenset(item.number for item in masked_plan(covered_layers(), *SIZE).items if is_bits(item))

    def reader(self, label, kind):
        if kind != Stream.OPENING:
            return super().reader(label, kind)
        shared = Prg(OTHER_SEED).reader(label, kind)
        return shared if label in self.bits or self.key == seed_of_a() else Negated(shared)


def test_the_family_fails_where_the_masks_cancel(monkeypatch):
    """Results stay right and each summand stays uniform, but every opened value is a secret."""
    monkeypatch.setattr(masked_dealing, "Prg", CancellingPrg)
    network, image = covered_layers(), encode(image_of(*SIZE))
    encoded = encoded_weights(network, weights_of(network))
    twin = run_parties(network, encoded, image, SIGMA, seed=SEED)
    assert torch.equal(opened_wires(twin)[IMAGE_WIRE], image)
    floors = masked_oracle(twin.plan, encoded, image, torch.full((1, 1, 1), SIGMA))
    assert torch.equal(twin.output, floors)  # right, and rounded down everywhere: no mask, no carry
    samples = views(twin)
    secrets = {name for name in samples if "opened" in name}
    assert len(secrets) > 10
    assert secrets <= set(suspicious(samples))
    assert suspicious({name: words for name, words in samples.items() if "message" in name}) == []  # only the sum tells


class RepeatingPrg(Prg):
    """The stream of an odd wire is that of the wire before it: two pairs of wires then have one r."""

    def reader(self, label, kind):
        return super().reader(label - label % 2 if kind == Stream.OPENING else label, kind)


SCALES = Network(
    (Scale("zero", IMAGE_WIRE, 0.25), Scale("one", "zero", 0.5), Scale("two", "one", 1.5), Conv("c", "two", 1, 1)),
    weight_frac_bits=12,
)


def test_the_family_fails_where_a_mask_is_used_twice(monkeypatch):
    """Each opened value alone stays uniform: only differences tell."""
    assert [item.number for item in evaluated(SCALES, (48, 48)).plan.items] == [0, 1, 2, 3, 4]
    assert suspicious(differences(evaluated(SCALES, (48, 48)))) == []
    monkeypatch.setattr(masked_dealing, "Prg", RepeatingPrg)
    image, encoded = encode(image_of(48, 48)), encoded_weights(SCALES, weights_of(SCALES))
    twin = run_parties(SCALES, encoded, image, SIGMA, seed=SEED)
    assert suspicious(views(twin)) == []
    assert suspicious(differences(twin)) == ["image - zero", "one - two"]


def test_material_for_two_images_would_give_their_difference():
    """Why material is used once. Fresh: the difference of two sessions' openings is uniform. The same: it is the images'."""
    first = evaluated(SCALES, (48, 48))
    fresh = evaluated(SCALES, (48, 48), seed=OTHER_SEED, image_seed=3)
    reused = evaluated(SCALES, (48, 48), image_seed=3)
    opened = opened_wires(first)
    assert suspicious({name: words - opened[name] for name, words in opened_wires(fresh).items()}) == []
    changes = {name: words - opened[name] for name, words in opened_wires(reused).items()}
    images = [encode(image_of(48, 48, seed)) for seed in (2, 3)]
    assert torch.equal(changes[IMAGE_WIRE], images[1] - images[0])
    assert set(suspicious(changes)) == set(changes)
