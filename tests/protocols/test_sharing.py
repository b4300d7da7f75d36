"""Additive sharing: every secret comes back, and no single share says anything about it.

Error rate: each statistical test compares a chi-square statistic with its quantile at 1e-6, over injected seeds; so the tests
are deterministic, and a correct implementation had this probability of failing when the seeds were chosen.
"""

import inspect
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from protocols.errors import DarkroomError, LocalProtocolError, RemoteProtocolError
from protocols.prg import derive_key
from protocols.sharing import expand_seed, reconstruct, share

VECTORS = json.loads((Path(__file__).parent / "vectors" / "sharing.json").read_text())
HIGH, LOW = 2**63 - 1, -(2**63)
ERROR_RATE = 1e-6
as_installed = inspect.unwrap  # shapes are type-checked under pytest only; what is shipped must refuse them itself
quick = settings(max_examples=100, deadline=None, database=None)
ring_words = st.integers(LOW, HIGH) | st.sampled_from([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH])


def seed_of(index: int) -> bytes:
    return derive_key(b"test_sharing", index.to_bytes(4, "big"))


def uniformity_p_value(words: torch.Tensor) -> float:
    """Chi-square of the eight byte positions of ring words against the uniform law."""
    octets = words.reshape(-1).contiguous().view(torch.uint8).view(-1, 8).long()
    expected = octets.shape[0] / 256
    counts = torch.stack([torch.bincount(octets[:, position], minlength=256) for position in range(8)]).double()
    return float(stats.chi2.sf(float(((counts - expected) ** 2 / expected).sum()), 8 * 255))


@given(secret=st.lists(ring_words, max_size=16), seed=st.binary(min_size=32, max_size=32))
@quick
def test_every_secret_comes_back(secret, seed):
    words = torch.tensor(secret, dtype=torch.int64)
    pair = share(words, seed=seed)
    assert torch.equal(reconstruct(expand_seed(pair.seed, tuple(words.shape)), pair.words), words)


@given(secret=st.lists(st.tuples(ring_words, ring_words), min_size=1, max_size=16))
@quick
def test_sharing_is_linear_across_the_wrap(secret):
    left, right = (torch.tensor(column, dtype=torch.int64) for column in zip(*secret, strict=True))
    pairs = share(left, seed=seed_of(0)), share(right, seed=seed_of(1))
    sums = [expand_seed(p.seed, tuple(left.shape)) for p in pairs], [p.words for p in pairs]
    opened = reconstruct(sums[0][0] + sums[0][1], sums[1][0] + sums[1][1])
    assert opened.tolist() == [(a + b + 2**63) % 2**64 - 2**63 for a, b in secret]


def test_vector():
    secret = torch.tensor(VECTORS["secret"])
    pair = share(secret, seed=bytes.fromhex(VECTORS["seed"]))
    assert expand_seed(pair.seed, (8,)).tolist() == VECTORS["share_a"]
    assert pair.words.tolist() == VECTORS["share_b"]


@pytest.mark.parametrize("tampered", VECTORS["tampered"], ids=lambda v: v["name"])
def test_tampered_vector_fails_at_the_named_step(tampered):
    vector = VECTORS | tampered["change"]
    step, failure = "expand_seed", None
    try:
        share_a = expand_seed(bytes.fromhex(vector["seed"]), (8,))
        step = "reconstruct"
        opened = as_installed(reconstruct)(share_a, torch.tensor(vector["share_b"]))
        step = "compare" if opened.tolist() != vector["secret"] else "none"
    except DarkroomError as error:
        failure = type(error)
    assert step == tampered["step"]
    assert failure is {"expand_seed": LocalProtocolError, "reconstruct": RemoteProtocolError, "compare": None}[step]


SECRETS = {
    "zero": torch.zeros(256, dtype=torch.int64),
    "largest": torch.full((256,), HIGH),
    "smallest": torch.full((256,), LOW),
    "image": torch.arange(256) * 256,
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_each_share_alone_is_uniform(secret):
    pairs = [share(secret, seed=seed_of(index)) for index in range(512)]
    assert uniformity_p_value(torch.stack([pair.words for pair in pairs])) > ERROR_RATE
    assert uniformity_p_value(torch.stack([expand_seed(pair.seed, (256,)) for pair in pairs])) > ERROR_RATE
    first_words = torch.stack([pair.words[:8] for pair in pairs])  # over seeds, not along one stream
    assert uniformity_p_value(first_words) > ERROR_RATE


@pytest.mark.parametrize("bits", [32, 62, 63])
def test_the_uniformity_test_finds_a_mask_that_is_too_short(bits):
    masks = [expand_seed(seed_of(index), (256,)) & ((1 << bits) - 1) for index in range(512)]
    assert uniformity_p_value(torch.stack([SECRETS["zero"] - mask for mask in masks])) < ERROR_RATE


def test_a_fresh_seed_for_every_sharing():
    secret = SECRETS["image"]
    pairs = [share(secret) for _ in range(100)]
    assert len({pair.seed for pair in pairs}) == 100
    assert len({tuple(pair.words.tolist()) for pair in pairs}) == 100


def test_the_secret_is_not_changed_in_place():
    secret = torch.arange(4)
    share(secret, seed=seed_of(0))
    assert secret.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shapes", [((4,), (5,)), ((4,), (1,)), ((2, 2), (4,)), ((4,), ())])
def test_shares_of_different_shapes_are_refused(shapes):
    with pytest.raises(RemoteProtocolError, match="different shapes"):
        as_installed(reconstruct)(*(torch.zeros(shape, dtype=torch.int64) for shape in shapes))
