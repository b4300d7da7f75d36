"""Packing: what goes in comes out, and what is stored without the keys says no more than the docstrings admit.

Error rate: each statistical test has probability 1e-6 of failing for a correct implementation, over the choice of the
injected keys; with the keys fixed it is deterministic.
"""

import hmac
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from protocols.errors import DarkroomError, EncodingRangeError, IntegrityError, LocalProtocolError
from protocols.identifiers import Role
from protocols.packing import (
    SIGMA_P_MAX,
    SIGMA_P_MIN,
    NoiseKeys,
    PackingMode,
    check_keys,
    fresh_nonce,
    gaussian_leakage_bits,
    key_check_value,
    mean_leakage_bits,
    noise,
    pack,
    region_leakage_bits,
    total_noise,
    unpack_share,
)
from protocols.sharing import expand_seed, reconstruct, share

VECTORS = json.loads((Path(__file__).parent / "vectors" / "packing.json").read_text())
MASTER = bytes(range(32))
HIGH, LOW = 2**63 - 1, -(2**63)
ERROR_RATE = 1e-6
KEYED, GAUSSIAN, BLIND = PackingMode
quick = settings(max_examples=60, deadline=None, database=None)
ring_words = st.integers(LOW, HIGH) | st.sampled_from([LOW, -1, 0, 1, HIGH])
nonces = st.binary(min_size=16, max_size=16)
unpackable = st.sampled_from([(KEYED, 0.0), (GAUSSIAN, SIGMA_P_MIN), (GAUSSIAN, 0.1), (GAUSSIAN, SIGMA_P_MAX)])


def keys_of(index: int) -> NoiseKeys:
    return NoiseKeys.derive(MASTER, index.to_bytes(16, "big"))


def uniformity_p_value(words: torch.Tensor) -> float:
    """Chi-square of the eight byte positions of ring words against the uniform law."""
    octets = words.reshape(-1).contiguous().view(torch.uint8).view(-1, 8).long()
    expected = octets.shape[0] / 256
    counts = torch.stack([torch.bincount(octets[:, position], minlength=256) for position in range(8)]).double()
    return float(stats.chi2.sf(float(((counts - expected) ** 2 / expected).sum()), 8 * 255))


# ---- vectors


@pytest.mark.parametrize("name", VECTORS["modes"])
def test_vector(name):
    keys = NoiseKeys.derive(bytes.fromhex(VECTORS["master"]), bytes.fromhex(VECTORS["nonce"]))
    assert (keys.key_a.hex(), keys.key_b.hex()) == (VECTORS["key_a"], VECTORS["key_b"])
    assert key_check_value(keys, bytes.fromhex(VECTORS["nonce"])).hex() == VECTORS["check_value"]
    vector = VECTORS["modes"][name]
    image = torch.tensor(vector["image"]).view(VECTORS["shape"])
    packed = pack(image, keys, PackingMode(name), float.fromhex(vector["sigma_p"]))
    assert packed.flatten().tolist() == vector["packed"]


@pytest.mark.parametrize("tampered", VECTORS["tampered"], ids=lambda v: v["name"])
def test_tampered_vector_fails_at_the_named_step(tampered):
    vector = VECTORS | VECTORS["modes"][tampered["mode"]] | tampered["change"]
    mode, sigma_p, nonce = PackingMode(tampered["mode"]), float.fromhex(vector["sigma_p"]), bytes.fromhex(vector["nonce"])
    image = torch.tensor(vector["image"]).view(vector["shape"])
    step, failure = "derive", None
    try:
        keys = NoiseKeys.derive(bytes.fromhex(vector["master"]), nonce)
        step = "check_keys"
        check_keys(keys, nonce, bytes.fromhex(vector["check_value"]))
        step = "pack"
        packed = pack(image, keys, mode, sigma_p)
        step = "compare"
        if packed.flatten().tolist() == vector["packed"]:
            step = "unpack_share"
            unpack_share(packed, keys.key_a, mode, sigma_p)
            step = "none"
    except DarkroomError as error:
        failure = type(error)
    assert step == tampered["step"]
    expected = {"derive": LocalProtocolError, "check_keys": IntegrityError, "unpack_share": LocalProtocolError, "compare": None}
    assert failure is expected.get(step, LocalProtocolError if mode is KEYED else EncodingRangeError)


# ---- round trips


@given(
    image=st.lists(ring_words, min_size=1, max_size=16),
    nonce=nonces,
    setting=unpackable,
    seed=st.binary(min_size=32, max_size=32),
)
@quick
def test_each_server_takes_off_its_own_noise_and_the_image_comes_back(image, nonce, setting, seed):
    words = torch.tensor(image)
    keys = NoiseKeys.derive(MASTER, nonce)
    pair = share(pack(words, keys, *setting), seed=seed)
    share_a = unpack_share(expand_seed(pair.seed, (len(image),)), keys.of(Role.A), *setting)
    share_b = unpack_share(pair.words, keys.of(Role.B), *setting)
    assert torch.equal(reconstruct(share_a, share_b), words)


@given(image=st.lists(st.integers(0, 65536), min_size=1, max_size=16), nonce=nonces, sigma_p=st.floats(SIGMA_P_MIN, 0.07))
@quick
def test_the_edge_takes_blind_noise_off_after_reconstruction(image, nonce, sigma_p):
    words = torch.tensor(image)
    keys = NoiseKeys.derive(MASTER, nonce)
    packed = pack(words, keys, BLIND, sigma_p)
    assert torch.equal(packed - total_noise(keys, BLIND, tuple(words.shape), sigma_p), words)


@pytest.mark.parametrize(("mode", "sigma_p"), [(KEYED, 0.0), (GAUSSIAN, 0.1)])
@pytest.mark.parametrize("wrong", [Role.A, Role.B])
def test_one_wrong_key_gives_another_image(mode, sigma_p, wrong):
    words = torch.arange(64).view(8, 8)
    keys, other = keys_of(1), keys_of(2)
    pair = share(pack(words, keys, mode, sigma_p))
    shares = {Role.A: expand_seed(pair.seed, (8, 8)), Role.B: pair.words}
    opened = reconstruct(*(unpack_share(shares[r], (other if r is wrong else keys).of(r), mode, sigma_p) for r in Role))
    assert not (opened == words).any() if mode is KEYED else (opened == words).sum() < 8


def test_the_keys_of_the_servers_are_not_exchangeable():
    words = torch.zeros(64, dtype=torch.int64)
    assert not torch.equal(noise(keys_of(1).of(Role.A), KEYED, (64,)), noise(keys_of(1).of(Role.B), KEYED, (64,)))
    assert keys_of(1).of(Role.A) == keys_of(1).key_a
    assert keys_of(1).of(Role.B) == keys_of(1).key_b
    assert torch.equal(pack(words, keys_of(1), KEYED), total_noise(keys_of(1), KEYED, (64,)))


# ---- keys


@given(st.lists(nonces, min_size=2, max_size=2, unique=True))
@quick
def test_every_nonce_and_role_has_its_own_key_and_noise(pair):
    keys = [key for nonce in pair for role in Role for key in (NoiseKeys.derive(MASTER, nonce).of(role),)]
    assert len(set(keys)) == 4
    words = [
        word for key in keys for mode, sigma in ((KEYED, 0.0), (GAUSSIAN, 1e4)) for word in noise(key, mode, (8,), sigma).tolist()
    ]
    assert len(set(words)) > 60  # of 64; a Gaussian word may come twice


def test_another_master_key_gives_other_keys():
    assert len({NoiseKeys.derive(bytes([i]) * 32, bytes(16)).key_a for i in range(100)}) == 100


def test_modes_never_share_a_stream():
    key = keys_of(0).key_a
    signs = noise(key, KEYED, (256,)) < 0, noise(key, GAUSSIAN, (256,), 1.0) < 0, noise(key, BLIND, (256,), 1.0) < 0
    for first, second in ((0, 1), (0, 2), (1, 2)):
        agree = int((signs[first] == signs[second]).sum())
        low, high = stats.binom.interval(1 - ERROR_RATE, 256, 0.5)
        assert low <= agree <= high


def test_right_keys_pass_and_every_wrong_one_is_refused():
    nonce = bytes(range(16))
    keys = NoiseKeys.derive(MASTER, nonce)
    expected = key_check_value(keys, nonce)
    check_keys(keys, nonce, expected)
    wrong = [NoiseKeys(keys.key_b, keys.key_a), NoiseKeys(keys.key_a, bytes(32)), NoiseKeys(bytes(32), keys.key_b)]
    wrong += [NoiseKeys.derive(bytes(32), nonce), NoiseKeys.derive(MASTER, bytes(16))]
    for other in wrong:
        with pytest.raises(IntegrityError, match="wrong key"):
            check_keys(other, nonce, expected)
    with pytest.raises(IntegrityError, match="wrong key"):
        check_keys(keys, bytes(16), expected)


def test_the_check_value_is_compared_in_constant_time(monkeypatch):
    keys, nonce = keys_of(0), bytes(16)
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda *values: compared.append(values) or False)
    with pytest.raises(IntegrityError):
        check_keys(keys, nonce, key_check_value(keys, nonce))
    assert len(compared) == 1


def test_the_check_value_is_neither_key_nor_noise():
    keys, nonce = keys_of(0), bytes(16)
    check_value = key_check_value(keys, nonce)
    stored = b"".join(noise(key, KEYED, (1024,)).numpy().tobytes() for key in (keys.key_a, keys.key_b))
    assert check_value not in keys.key_a + keys.key_b + stored


def test_equal_keys_are_refused():
    with pytest.raises(LocalProtocolError, match="equal"):
        NoiseKeys(bytes(32), bytes(32))


@pytest.mark.parametrize("lengths", [(31, 32), (32, 31), (0, 0), (16, 16)])
def test_keys_of_a_wrong_length_are_refused(lengths):
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        NoiseKeys(*(bytes([i]) * length for i, length in enumerate(lengths)))


def test_fresh_nonces_are_fresh():
    assert len({fresh_nonce() for _ in range(1000)}) == 1000
    assert len(fresh_nonce()) == 16


# ---- what is stored without the keys

IMAGES = {
    "black": torch.zeros(256, dtype=torch.int64),
    "white": torch.full((256,), 65536),
    "ramp": torch.arange(256) * 256,
    "largest": torch.full((256,), HIGH),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_keyed_packing_is_uniform_without_either_key(image):
    keys = [keys_of(index) for index in range(512)]
    packed = torch.stack([pack(image, k, KEYED) for k in keys])
    assert uniformity_p_value(packed) > ERROR_RATE
    assert uniformity_p_value(packed - torch.stack([noise(k.key_a, KEYED, (256,)) for k in keys])) > ERROR_RATE
    assert uniformity_p_value(packed - torch.stack([noise(k.key_b, KEYED, (256,)) for k in keys])) > ERROR_RATE
    assert uniformity_p_value(packed[:, :8]) > ERROR_RATE  # over uploads, not along one stream


@pytest.mark.slow
def test_the_uniformity_test_finds_weak_packing():
    keys = [keys_of(index) for index in range(512)]
    twice_one_key = torch.stack([IMAGES["black"] + 2 * noise(k.key_a, KEYED, (256,)) for k in keys])
    gaussian_only = torch.stack([pack(IMAGES["black"], k, GAUSSIAN, SIGMA_P_MAX) for k in keys])
    one_nonce = torch.stack([pack(IMAGES["black"], keys[0], KEYED) for _ in keys])
    for weak in (twice_one_key, gaussian_only, one_nonce):
        assert uniformity_p_value(weak) < ERROR_RATE


@pytest.mark.parametrize("mode", [GAUSSIAN, BLIND])
@pytest.mark.parametrize("sigma_p", [SIGMA_P_MIN, 25 / 255])
def test_the_two_noises_add_up_to_sigma_p(mode, sigma_p):
    count = 1 << 16
    keys = keys_of(3)
    relative = stats.norm.isf(ERROR_RATE / 2) / math.sqrt(2 * count)
    parts = [noise(keys.of(role), mode, (count,), sigma_p).double() / 65536 for role in Role]
    for part in parts:
        assert float(part.std()) == pytest.approx(sigma_p / math.sqrt(2), rel=relative + 1e-3)
    assert float((parts[0] + parts[1]).std()) == pytest.approx(sigma_p, rel=relative + 1e-3)  # 1e-3: the grid at 2^-12
    assert abs(float((parts[0] * parts[1]).mean())) < stats.norm.isf(ERROR_RATE / 2) / math.sqrt(count) * sigma_p**2 / 2
    assert torch.equal(total_noise(keys, mode, (count,), sigma_p).double() / 65536, parts[0] + parts[1])


# ---- ranges


@pytest.mark.parametrize("mode", [GAUSSIAN, BLIND])
@pytest.mark.parametrize(
    "sigma_p", [0.0, -0.1, math.nan, math.inf, -math.inf, math.nextafter(SIGMA_P_MIN, 0), math.nextafter(SIGMA_P_MAX, 1e9)]
)
def test_sigma_p_out_of_range_is_refused(mode, sigma_p):
    with pytest.raises(EncodingRangeError, match="sigma_p"):
        noise(keys_of(0).key_a, mode, (4,), sigma_p)
    with pytest.raises(EncodingRangeError, match="sigma_p"):
        pack(torch.zeros(4, dtype=torch.int64), keys_of(0), mode, sigma_p)
    with pytest.raises(EncodingRangeError, match="sigma_p"):
        gaussian_leakage_bits(1.0, sigma_p)


@pytest.mark.parametrize("sigma_p", [0.1, math.nan])
def test_keyed_mode_has_no_sigma_p(sigma_p):
    with pytest.raises(LocalProtocolError, match="keyed"):
        pack(torch.zeros(4, dtype=torch.int64), keys_of(0), KEYED, sigma_p)


def test_blind_packing_stays_where_the_network_is_exact():
    image = torch.zeros(512, 512, dtype=torch.int64)
    packed = pack(image, keys_of(0), BLIND, 0.15)
    assert -65536 <= int(packed.min()) < int(packed.max()) <= 131072
    for shifted in (image - 65536, image + 131072):
        with pytest.raises(EncodingRangeError, match="smaller sigma_p"):
            pack(shifted, keys_of(0), BLIND, 0.15)
    pack(image - 65536, keys_of(0), GAUSSIAN, 0.15)


def test_blind_shares_are_never_unpacked():
    with pytest.raises(LocalProtocolError, match="blind"):
        unpack_share(torch.zeros(4, dtype=torch.int64), keys_of(0).key_a, BLIND, 0.1)


# ---- leakage


def test_leakage_of_a_gaussian_image_is_the_bound():
    # for independent Gaussian pixels the bound is attained: I = -1/2 log2(1 - rho^2)
    variance, sigma_p = 0.04, 0.1
    rho2 = variance / (variance + sigma_p**2)
    assert gaussian_leakage_bits(variance, sigma_p) == pytest.approx(-0.5 * math.log2(1 - rho2), rel=1e-12)
    assert gaussian_leakage_bits(0.0, sigma_p) == 0.0
    assert gaussian_leakage_bits(0.25, SIGMA_P_MAX) < 2.0**-32


@pytest.mark.slow
def test_a_mean_of_many_pixels_leaks_more_than_its_part_of_the_average():
    """The claim of the docstring, measured: the observer estimates a region's mean from packed pixels."""
    side, sigma_p, spread, trials = 16, 0.5, 0.1, 400
    means = torch.round(65536 * (0.5 + spread * torch.linspace(-1.7, 1.7, trials))).long()
    packed = torch.stack(
        [pack(means[i].expand(side, side), keys_of(i), GAUSSIAN, sigma_p).double().mean() for i in range(trials)]
    )
    rho2 = float(torch.corrcoef(torch.stack([means.double(), packed]))[0, 1]) ** 2
    measured = -0.5 * math.log2(1 - rho2)
    variance = float((means.double() / 65536).var())
    assert measured > 30 * gaussian_leakage_bits(variance, sigma_p)
    assert measured == pytest.approx(mean_leakage_bits(variance, sigma_p, side * side), rel=0.1)


def test_regional_leakage_averages_to_at_most_the_bound_for_the_image():
    image = torch.outer(torch.linspace(0, 1, 64), torch.linspace(0, 1, 48))
    image[:16, :16] = 0.0
    regions = region_leakage_bits(image, 0.1, side=16)
    assert regions.shape == (4, 3)
    assert float(regions.mean()) <= gaussian_leakage_bits(float(image.double().var(correction=0)), 0.1)
    assert float(regions[0, 0]) > 0.5  # even, but darker than the image
    assert float(region_leakage_bits(image, 0.1, side=64)) == pytest.approx(
        gaussian_leakage_bits(float(image.double().var(correction=0)), 0.1)
    )
    assert region_leakage_bits(image, 0.1, side=20).shape == (4, 3)


@pytest.mark.parametrize("variance", [-0.1, math.nan, math.inf])
def test_a_variance_that_is_none_is_refused(variance):
    with pytest.raises(EncodingRangeError, match="variance"):
        gaussian_leakage_bits(variance, 0.1)


def test_regions_without_pixels_are_refused():
    with pytest.raises(EncodingRangeError, match="side 0"):
        region_leakage_bits(torch.zeros(8, 8), 0.1, side=0)
    with pytest.raises(EncodingRangeError, match="0 pixels"):
        mean_leakage_bits(0.1, 0.1, 0)
