"""Two real workers on a fake link: the result is the oracle's, what each server sees is uniform, and misuse fails loudly.

Exactness: each truncation gives the floor or one more, because each server divides its own share towards zero and the shares
have opposite signs (unless the sum wraps: odds |x| / 2^64 per element). `truncation_bound` carries that one unit through the
network.

Uniformity: chi-square of the eight byte positions of ring words, and an exact binomial test for opened single bits, over
everything that a server receives. Each family of tests has a family-wise error rate of 1e-6 (Bonferroni); seeds are injected,
so the tests are deterministic, and a correct implementation had this probability of failing when the seeds were chosen.
The twins show that each family fails when the property is taken away.
"""

import itertools
import time
from collections.abc import Iterator

import pytest
import torch
from scipy import stats

from protocols import dealing, ring
from protocols.fixed_point import decode, encode
from protocols.identifiers import Role
from protocols.layers import Add, Clamp, Conv, Gate, MaxPool, Relu
from protocols.network import IMAGE_WIRE, Network
from protocols.oracle import evaluate_oracle, oracle_wires
from protocols.plan import SharedBit
from tests.protocols.every_layer import EVERY_LAYER, encoded_weights, image_of, truncation_bound, weights_of
from tests.protocols.test_sharing import uniformity_p_value
from tests.server.joined_workers import Transcript, run_joined
from tests.server.worker_host import SABOTAGES, WorkerHost, with_repeated_masks, without_masks

pytestmark = pytest.mark.integration

FAMILY_ERROR_RATE = 1e-6
FEWEST_WORDS = 1280  # five expected per byte value: below that chi-square is no approximation
SIGMA = 25 * 65536 // 255
SEED = bytes(range(32))
WEIGHTS = weights_of(EVERY_LAYER)
SMALL = Network(
    (Conv("c", IMAGE_WIRE, 4, 3, padding=1), Gate("g", "c"), Conv("o", "g", 1, 1), Add("s", IMAGE_WIRE, "o")),
    weight_frac_bits=12,
)


@pytest.fixture(scope="module")
def host() -> Iterator[WorkerHost]:
    with WorkerHost() as host:
        yield host


def evaluate(host, network=EVERY_LAYER, size=(9, 13), *, sabotage="none", image_seed=2, **options) -> Transcript:
    image = encode(image_of(*size, image_seed))
    options.setdefault("seed", SEED)
    return run_joined(network, weights_of(network), image, SIGMA, start=lambda: host.start(sabotage), **options)


def oracle(network, size, image_seed=2):
    encoded = encoded_weights(network, weights_of(network))
    return evaluate_oracle(network, encoded, encode(image_of(*size, image_seed)), SIGMA)


def difference(transcript, network, size):
    expected = oracle(network, size)
    return int((transcript.output.view(expected.shape) - expected).abs().max())


# --- the result ---


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (8, 31), (33, 10), (64, 61)])
def test_every_layer_at_any_size(host, size):
    transcript = evaluate(host, size=size)
    assert (transcript.failures, transcript.broken) == ({}, {})
    expected = oracle(EVERY_LAYER, size)
    wires = oracle_wires(EVERY_LAYER, encoded_weights(EVERY_LAYER, WEIGHTS), encode(image_of(*size)), SIGMA)
    allowed = truncation_bound(EVERY_LAYER, WEIGHTS, wires)["output"][:, : size[0], : size[1]]
    assert float(allowed.max()) < 10
    assert bool(((transcript.output.view(expected.shape) - expected).abs() <= allowed).all())


def test_the_workers_of_a_server_are_the_same_code():
    """Once with processes as a server starts them: everything else here runs in forks of one."""
    transcript = run_joined(SMALL, weights_of(SMALL), encode(image_of(8, 9)), SIGMA, seed=SEED)
    assert (transcript.failures, transcript.broken) == ({}, {})
    assert difference(transcript, SMALL, (8, 9)) <= 4  # conv 1, gate 1 + 2 |x| <= 3, conv 1


def test_relu_is_exact(host):
    """No truncation, so no difference: at the extremes of the encoding too."""
    network = Network((Relu("r", IMAGE_WIRE),))
    image = torch.arange(-40, 40).view(1, 8, 10)
    image[0, 0, :4] = torch.tensor([2**40, -(2**40), 2**62, -(2**62)])
    transcript = run_joined(network, {}, image, 0, seed=SEED, start=host.start)
    assert torch.equal(transcript.output.view(1, 8, 10), image.clamp(min=0))


@pytest.mark.parametrize("kernel", [2, 3, 0])
def test_max_pool_is_exact(host, kernel):
    network = Network((MaxPool("m", IMAGE_WIRE, kernel),))
    image = encode(image_of(9, 11))
    transcript = run_joined(network, {}, image, 0, seed=SEED, start=host.start)
    expected = evaluate_oracle(network, {}, image, 0)
    assert torch.equal(transcript.output.view(expected.shape), expected)


def test_clamp_is_exact(host):
    network = Network((Clamp("c", IMAGE_WIRE, -(2.0**-16), 0.75),))
    image = torch.arange(-40, 40).view(1, 8, 10)
    image[0, 0, :6] = torch.tensor([2**40, -(2**40), 2**62, 49151, 49152, 49153])
    transcript = run_joined(network, {}, image, 0, seed=SEED, start=host.start)
    assert torch.equal(transcript.output.view(1, 8, 10), image.clamp(-1, 49152))


def test_costs_are_as_planned(host):
    transcript = evaluate(host)
    for role in Role:
        assert transcript.stats[role].rounds == len(transcript.plan.correlations)
        assert transcript.stats[role].sent_bytes == transcript.plan.sent_bytes
        assert sum(words.numel() for words in transcript.openings[role]) * 8 == transcript.plan.sent_bytes


def test_a_run_repeats_word_for_word(host):
    """All randomness is dealt: nothing is drawn from a generator of CrypTen's or torch's."""
    first, second = evaluate(host), evaluate(host)
    for role in Role:
        assert all(map(torch.equal, first.openings[role], second.openings[role]))
        assert torch.equal(first.shares[role], second.shares[role])


# --- what a server sees ---


def views(transcript: Transcript) -> dict[str, torch.Tensor]:
    """Everything that one of the two servers receives or both see, but seeds and single bits; small tensors put together."""
    full = [index for index, item in enumerate(transcript.plan.correlations) if not isinstance(item, SharedBit)]
    wires = [item.wire for item in transcript.plan.correlations]
    seen = {"B's image share": transcript.image_shares[Role.B], "A's image share": transcript.image_shares[Role.A]}
    seen |= {f"{role.value}'s output share": transcript.shares[role] for role in Role}
    seen |= {f"correction of {wires[i]}": words for i, words in enumerate(transcript.corrections)}
    seen |= {f"{role.value}'s message at {wires[i]}": transcript.openings[role][i] for role in Role for i in full}
    seen |= {f"opened at {wires[i]}": transcript.opened[i] for i in full}
    large = {name: words for name, words in seen.items() if words.numel() >= FEWEST_WORDS}
    for kind in ("correction", "A's message", "B's message", "opened"):
        small = [words.flatten() for name, words in seen.items() if name.startswith(kind) and name not in large]
        if sum(map(len, small)) >= FEWEST_WORDS:
            large[f"all small: {kind}"] = torch.cat(small)
    return large


def differences(transcript: Transcript) -> dict[str, torch.Tensor]:
    """Of all pairs of opened values of one size: under one mask twice, the difference would be that of the secrets."""
    named = [
        (item.wire, words)
        for item, words in zip(transcript.plan.correlations, transcript.opened, strict=True)
        if not isinstance(item, SharedBit) and words.numel() >= FEWEST_WORDS
    ]
    pairs = itertools.combinations(named, 2)
    return {f"{a} - {b}": x - y for (a, x), (b, y) in pairs if x.shape == y.shape}


def suspicious(samples: dict[str, torch.Tensor]) -> list[str]:
    """Names of the samples that are not uniform, at the family-wise error rate."""
    rate = FAMILY_ERROR_RATE / len(samples)
    return [name for name, words in samples.items() if uniformity_p_value(words) < rate]


def unbalanced(transcript: Transcript) -> list[str]:
    """Messages and opened values of single bits that are not fair coins."""
    samples = {}
    for index, item in enumerate(transcript.plan.correlations):
        if isinstance(item, SharedBit):
            samples |= {f"{role.value}'s message at {item.wire}": transcript.openings[role][index] for role in Role}
            samples[f"opened at {item.wire}"] = transcript.opened[index]
    for name, words in samples.items():
        assert set(words.unique().tolist()) <= {0, 1}, name
    rate = FAMILY_ERROR_RATE / len(samples)
    return [name for name, words in samples.items() if stats.binomtest(int(words.sum()), words.numel(), 0.5).pvalue < rate]


@pytest.fixture(scope="module")
def honest(host) -> Transcript:
    return evaluate(host, size=(96, 96))


def test_everything_that_a_server_receives_is_uniform(honest):
    samples = views(honest)
    assert len(samples) > 100
    assert suspicious(samples) == []


def test_single_bits_are_fair(honest):
    assert unbalanced(honest) == []


def test_no_mask_is_used_for_two_wires(honest):
    samples = differences(honest)
    assert len(samples) > 50
    assert suspicious(samples) == []


def test_the_family_fails_when_the_masks_cancel(host, monkeypatch):
    """Results stay right and each server's mask stays uniform, but every opened value is a secret."""
    monkeypatch.setattr(dealing, "_expand", without_masks)
    starts = iter(("cancel masks, A", "cancel masks, B"))
    image = encode(image_of(96, 96))
    twin = run_joined(EVERY_LAYER, WEIGHTS, image, SIGMA, seed=SEED, start=lambda: host.start(next(starts)))
    assert difference(twin, EVERY_LAYER, (96, 96)) < 10
    samples = views(twin)
    secrets = {name for name in samples if name.startswith("opened at") and "/" not in name}
    assert len(secrets) == 8
    assert secrets <= set(suspicious(samples))
    assert suspicious({name: words for name, words in samples.items() if "message at" in name}) == []  # only the sum tells
    assert unbalanced(twin) == []  # a comparison's bit has no fixed share of ones: the words above tell


def test_the_family_fails_when_a_mask_is_used_twice(host, monkeypatch):
    """Each opened value alone stays uniform: only differences tell."""
    network = Network((Conv("c", IMAGE_WIRE, 1, 1), Conv("d", "c", 1, 1)), weight_frac_bits=12)
    size = (48, 48)
    assert suspicious(differences(evaluate(host, network, size))) == []
    monkeypatch.setattr(dealing, "_expand", with_repeated_masks)
    twin = evaluate(host, network, size, sabotage="repeat masks")
    assert difference(twin, network, size) < 10
    assert suspicious(views(twin)) == []
    assert suspicious(differences(twin)) == ["c - d"]


def test_material_for_two_images_would_give_their_difference(host):
    """Why material is used once. Fresh material: the difference of two sessions' openings is uniform. The same: it is not."""
    size = (48, 48)
    first = evaluate(host, SMALL, size)
    fresh = evaluate(host, SMALL, size, seed=bytes(32), image_seed=3)
    reused = evaluate(host, SMALL, size, session=b"another", image_seed=3)
    assert suspicious({"fresh": fresh.opened[0] - first.opened[0]}) == []
    images = [encode(image_of(*size, seed)).flatten() for seed in (2, 3)]
    assert torch.equal(reused.opened[0] - first.opened[0], images[1] - images[0])


# --- the output ---

LINEAR = Network((Conv("c", IMAGE_WIRE, 1, 1, bias=False),), weight_frac_bits=12)


def predicted_share(transcript: Transcript, image: torch.Tensor, weight: int) -> torch.Tensor:
    """What the edge (its image) and the dealer (its material) compute together for A's share, if the weight were this.

    [x*w]_A = c_A + a_A * delta + eps * (b_A + delta), with delta = w - b; then A's division by 2^12.
    """
    a_a, a_b = (dealing.Prg(transcript.seeds[role]).words(0, dealing.Stream.A, image.shape) for role in Role)
    b_a, b_b = (dealing.weight_mask_share(transcript.push_seeds[role], 0, (1, 1, 1, 1)) for role in Role)
    c_a = dealing.Prg(transcript.seeds[Role.A]).words(0, dealing.Stream.C, image.shape)
    delta = weight - b_a - b_b
    product = c_a + a_a * delta + (image - a_a - a_b) * (b_a + delta)
    return product.div(1 << 12, rounding_mode="trunc").flatten()


def matching(host, sabotage: str, change: int) -> float:
    """Fraction of A's released share that edge and dealer predict, with the weight off by `change` units."""
    image = encode(image_of(48, 48))
    transcript = run_joined(LINEAR, weights_of(LINEAR), image, 0, seed=SEED, start=lambda: host.start(sabotage))
    weight = int(encoded_weights(LINEAR, weights_of(LINEAR))["c.weight"]) + change
    return float((predicted_share(transcript, image, weight) == transcript.shares[Role.A]).double().mean())


def test_edge_and_dealer_cannot_try_weights_on_a_released_share(host):
    """2304 words: one match by chance has odds of 1e-16. Without the key of A and B every word confirms the right weight."""
    assert matching(host, "keep output", 0) == 1.0
    assert matching(host, "keep output", 1) < 0.01
    assert matching(host, "none", 0) == 0.0


def test_output_shares_depend_on_the_key_of_a_and_b_and_their_sum_does_not(host):
    """Two sessions with one material, weights and image share no released word, and their difference is uniform."""
    runs = [evaluate(host, SMALL, (48, 48), session=session) for session in (b"1", b"2")]
    shares = [run.shares[Role.B] for run in runs]
    assert suspicious({"difference": shares[0] - shares[1]} | {f"share {i}": share for i, share in enumerate(shares)}) == []
    assert int((runs[0].output - runs[1].output).abs().max()) <= 4  # carries only


# --- misuse fails loudly ---


def failures_with(host, **options) -> dict[Role, str]:
    transcript = evaluate(host, SMALL, (8, 9), **options)
    assert transcript.shares == {}
    return transcript.failures


def test_an_opening_computed_twice_is_refused_before_it_is_sent(host):
    transcript = evaluate(host, SMALL, (8, 9), sabotage="open twice")
    assert transcript.shares == {}
    for role in Role:
        assert transcript.failures[role].startswith("MaterialReusedError: opening 1 under material")
        assert len(transcript.openings[role]) == 2  # the convolution's and the product's, each once


def test_a_server_that_opens_the_result_to_itself_is_stopped(host):
    transcript = evaluate(host, SMALL, (8, 9), sabotage="open output")
    assert transcript.shares == {}
    for role in Role:
        assert transcript.failures[role].startswith("LocalProtocolError: an opening was asked for without a mask")
        assert len(transcript.openings[role]) == len(transcript.plan.correlations)


RELAYS = {
    "the first opening again": (lambda label, words: [(0, words)], "opening 0 of"),
    "an opening twice": (lambda label, words: [(label, words)] * 2, "opening 0 of"),
    "an opening too early": (lambda label, words: [(label + 1, words)], "opening 1 of"),
    "a word too many": (lambda label, words: [(label, words + bytes(8))], "of 584 bytes came in place"),
    "a word too few": (lambda label, words: [(label, words[:-8])], "of 568 bytes came in place"),
    "nothing": (lambda label, words: [(label, b"")], "of 0 bytes came in place"),
}


@pytest.mark.parametrize("name", RELAYS)
def test_a_link_that_does_not_carry_the_plan_is_noticed(host, name):
    change, message = RELAYS[name]
    failures = failures_with(host, relay=lambda role, label, words: change(label, words) if role is Role.B else [(label, words)])
    assert failures[Role.A].startswith("RemoteProtocolError: opening")
    assert message in failures[Role.A]
    assert "the link to the other server broke" in failures.get(Role.B, "the link to the other server broke")


@pytest.mark.parametrize("role", Role)
def test_other_material_gives_noise_that_the_edge_refuses(host, role):
    """Nothing can notice it on the servers; the result is as large as the ring, so the edge's range check finds it.

    A pixel passes by chance with odds below 2^-30.
    """
    transcript = evaluate(host, SMALL, (48, 48), tamper_seed=lambda at, seed: bytes(32) if at is role else seed)
    result = decode(transcript.output)
    assert float((result.abs() > 2).double().mean()) > 0.99
    assert float(decode(oracle(SMALL, (48, 48))).abs().max()) < 4


def test_a_tampered_word_of_one_opening_stays_where_it_can_reach(host):
    """Semi-honest: an error that a server adds to a wire is not noticed. It reaches the result, and nothing else is lost."""

    def add_one(role, label, payload):
        words = ring.from_bytes(payload, (len(payload) // 8,))
        words[0] += (role is Role.B and label == 2) << 20
        return [(label, ring.to_bytes(words))]

    plain, tampered = evaluate(host, SMALL, (8, 9)), evaluate(host, SMALL, (8, 9), relay=add_one)
    changed = (tampered.output - plain.output).abs() > 4
    assert changed.nonzero().flatten().tolist() == [0]


# --- the last opening and the result ---


def test_a_result_does_not_run_into_the_last_opening(host):
    """A's link is slow at the last opening, whose 4.5 MiB no socket buffers, while B's has long arrived.

    A result sent at once would land inside the opening, and so at the other server, which knows the key that re-randomises
    it. (tests/server/test_exchange.py and test_worker.py fix the order without a clock.)
    """
    network = Network((Conv("c", IMAGE_WIRE, 16, 1), Gate("g", "c")))

    def slow(role, label):
        if role is Role.A and label == 1:
            time.sleep(1.0)

    transcript = evaluate(host, network, (192, 192), hold=slow)
    assert (transcript.failures, transcript.broken) == ({}, {})
    assert difference(transcript, network, (192, 192)) < 10


def test_every_sabotage_is_used():
    with open(__file__) as source:
        text = source.read()
    assert [name for name in SABOTAGES if f'"{name}"' not in text] == []
