"""The fixed-point oracle: each layer by hand, and the whole network against exact real arithmetic."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.fixed_point import decode, encode
from protocols.float_evaluation import evaluate_float
from protocols.layers import (
    Add,
    AvgPool,
    Clamp,
    Concat,
    Conv,
    Gate,
    Linear,
    MaxPool,
    PixelShuffle,
    PixelUnshuffle,
    Product,
    Relu,
    Scale,
    SigmaMap,
)
from protocols.linear_steps import extend_edges, pool_windows
from protocols.network import IMAGE_WIRE, Network
from protocols.oracle import evaluate_oracle, oracle_wires
from tests.protocols.every_layer import EVERY_LAYER, encoded_weights, image_of, truncation_bound, weights_of

X = IMAGE_WIRE
ONE = 1 << 16
SIGMA = 0.125


@given(height=st.integers(8, 30), width=st.integers(8, 30), seed=st.integers(0, 2**31))
@settings(max_examples=4, deadline=None, database=None)
def test_oracle_follows_exact_arithmetic_at_every_size(height, width, seed):
    """Doubles hold every wire exactly to far below 2^-16; so the difference is the oracle's floors, and they have a bound."""
    weights = {name: tensor.double() for name, tensor in weights_of(EVERY_LAYER, seed).items()}
    image = image_of(height, width, seed)
    encoded = encoded_weights(EVERY_LAYER, weights)
    wires = oracle_wires(EVERY_LAYER, encoded, encode(image), int(SIGMA * ONE))
    bound = truncation_bound(EVERY_LAYER, weights, wires)
    for count in (7, 14, len(EVERY_LAYER.layers)):  # three wires name a faulty layer closely enough
        layers = EVERY_LAYER.layers[:count]
        head = Network(layers, EVERY_LAYER.multiple, EVERY_LAYER.weight_frac_bits)
        exact = evaluate_float(head, weights, image[None], torch.tensor([SIGMA], dtype=torch.double))[0]
        wire = wires[layers[-1].out]
        crop = wire[:, :height, :width] if count == len(EVERY_LAYER.layers) else wire
        assert crop.shape == exact.shape
        error, allowed = (crop - exact * ONE).abs(), bound[layers[-1].out][:, : crop.shape[1], : crop.shape[2]]
        assert bool((error <= allowed).all()), layers[-1].out
    assert torch.equal(evaluate_oracle(EVERY_LAYER, encoded, encode(image), int(SIGMA * ONE)), crop)


def test_the_bound_says_something():
    weights = weights_of(EVERY_LAYER)
    wires = oracle_wires(EVERY_LAYER, encoded_weights(EVERY_LAYER, weights), encode(image_of(9, 11)), int(SIGMA * ONE))
    bound = truncation_bound(EVERY_LAYER, weights, wires)
    assert float(bound["output"].max()) < 10  # units of 2^-16: a twentieth of an 8-bit grey level
    assert max(float(decode(wire).abs().max()) for wire in wires.values()) < 8
    moved = [name for name, wire in wires.items() if wire.numel() > 1 and int(wire.max() - wire.min()) < 1000]
    assert moved == ["sigma"]  # every other wire varies by far more than the bound, so a wrong layer shows


def run(layers, words, weights=None, sigma=0, **frame):
    network = Network(tuple(layers), **frame)
    wires = oracle_wires(network, weights or {}, words, sigma)
    return wires[layers[-1].out]


def image(**places):
    """An 8x8 image of zeros, but for `r0c1=5` and the like."""
    words = torch.zeros(1, 8, 8, dtype=torch.int64)
    for place, value in places.items():
        words[0, int(place[1]), int(place[3])] = value
    return words


def test_convolution_floors_then_adds_the_bias():
    weights = {"c.weight": torch.tensor([[[[1]]]]), "c.bias": torch.tensor([100])}
    out = run([Conv("c", X, 1, 1)], image(r0c0=4095, r0c1=4096, r0c2=-1, r0c3=-4096), weights, weight_frac_bits=12)
    assert out[0, 0, :5].tolist() == [100, 101, 99, 99, 100]


def test_convolution_pads_with_zeros_and_strides():
    weights = {"c.weight": torch.full((1, 1, 3, 3), 1 << 16)}
    out = run([Conv("c", X, 1, 3, stride=2, padding=1, bias=False)], torch.ones(1, 8, 8, dtype=torch.int64), weights)
    assert out[0].tolist() == [[4, 6, 6, 6], [6, 9, 9, 9], [6, 9, 9, 9], [6, 9, 9, 9]]


def test_gate_multiplies_the_halves_and_floors():
    words = image(r0c0=3, r0c1=ONE // 2, r1c0=-3, r1c1=ONE // 2)
    halves = {"u.weight": torch.tensor([ONE, 0, 0, ONE]).view(4, 1, 1, 1) * 0 + ONE, "u.bias": torch.zeros(4, dtype=torch.int64)}
    out = run([Conv("u", X, 4, 1), Gate("g", "u")], words, halves)
    assert out.shape == (2, 8, 8)
    assert out[1, :2, :2].tolist() == [[0, ONE // 4], [0, ONE // 4]]
    mixed = run([PixelUnshuffle("u", X, 2), Gate("g", "u")], words)
    assert mixed[:, 0, 0].tolist() == [(3 * -3) >> 16, ONE // 4]
    assert (3 * -3) >> 16 == -1  # floor, not truncation towards zero


def test_product_repeats_the_right_over_the_plane():
    words = torch.arange(64).view(1, 8, 8) * ONE
    out = run([AvgPool("m", X, 0), Product("p", X, "m")], words)
    assert torch.equal(out, words * 63 // 2)  # the mean of 0..63 is 31.5


def test_linear_reads_the_plane_row_by_row():
    weights = {"l.weight": torch.arange(128).view(2, 64) << 16, "l.bias": torch.tensor([5, 7])}
    out = run([Linear("l", X, 2)], image(r0c1=1, r1c0=100), weights)
    assert out.flatten().tolist() == [1 + 800 + 5, 65 + 7200 + 7]


def test_add_concat_scale_and_sigma():
    words = image(r0c0=3, r0c1=-3)
    assert run([Add("s", X, X)], words)[0, 0, :2].tolist() == [6, -6]
    assert run([Scale("s", X, -0.5)], words)[0, 0, :2].tolist() == [-2, 1]
    both = run([SigmaMap("s", X), Concat("c", X, "s")], words, sigma=77)
    assert both[0].tolist() == words[0].tolist()
    assert both[1].tolist() == [[77] * 8] * 8


def test_shuffles_are_inverse():
    words = torch.arange(64).view(1, 8, 8)
    folded = run([PixelUnshuffle("u", X, 2)], words)
    assert folded[:, 0, 0].tolist() == [0, 1, 8, 9]
    assert torch.equal(run([PixelUnshuffle("u", X, 2), PixelShuffle("s", "u", 2)], words), words)


def test_pools_drop_what_does_not_fill_a_window():
    words = torch.arange(81).view(1, 9, 9)
    average, largest = (run([kind("p", X, 2)], words) for kind in (AvgPool, MaxPool))
    assert average.shape == largest.shape == (1, 4, 4)
    assert average[0, 0, :2].tolist() == [5, 7]
    assert largest[0, 3].tolist() == [64, 66, 68, 70]
    assert run([MaxPool("p", X, 0)], -words).tolist() == [[[0]]]
    assert run([AvgPool("p", X, 3)], -words)[0, 0, 0] == -10
    assert run([AvgPool("p", X, 2)], image(r0c0=-1))[0, 0, 0] == -1  # floor


def test_relu():
    assert run([Relu("r", X)], image(r0c0=-1, r0c1=1, r0c2=-(2**62)))[0, 0, :4].tolist() == [0, 1, 0, 0]


def test_clamp():
    words = image(r0c0=-(2**40), r0c1=-ONE // 2 - 1, r0c2=-ONE // 2, r0c3=3, r0c4=ONE, r0c5=ONE + 1, r0c6=2**62)
    assert run([Clamp("c", X, -0.5, 1.0)], words)[0, 0, :7].tolist() == [-ONE // 2] * 3 + [3] + [ONE] * 3
    assert run([Clamp("c", X, 2.0**-16, 2.0**-15)], words)[0, 0, :5].tolist() == [1, 1, 1, 2, 2]


def test_edges_are_repeated_and_the_output_is_cropped():
    words = torch.arange(72).view(1, 8, 9)
    wires = oracle_wires(Network((Relu("r", X),), multiple=4), {}, words, 0)
    assert wires[X].shape == (1, 8, 12)
    assert wires[X][0, :, 9:].tolist() == [[row[8]] * 3 for row in words[0].tolist()]
    assert torch.equal(evaluate_oracle(Network((Relu("r", X),), multiple=4), {}, words, 0), words)


@given(height=st.integers(1, 6), width=st.integers(1, 6), taller=st.integers(0, 5), wider=st.integers(0, 5))
@settings(max_examples=30, deadline=None, database=None)
def test_extension_is_linear_so_it_works_on_shares(height, width, taller, wider):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randint(-9, 9, (2, height, width), generator=generator) for _ in range(2))
    size = height + taller, width + wider
    assert torch.equal(extend_edges(left + right, *size), extend_edges(left, *size) + extend_edges(right, *size))


def test_windows_hold_every_member_once():
    words = torch.arange(36).view(1, 6, 6)
    members = torch.stack(pool_windows(words, 2, 3))
    assert sorted(members.flatten().tolist()) == list(range(36))
    assert sorted(members[:, 0, 0, 0].tolist()) == [0, 1, 2, 6, 7, 8]


def test_products_wrap_like_the_ring():
    words = image(r0c0=2**40)
    assert run([Product("p", X, X)], words)[0, 0, 0] == ((2**80 + 2**63) % 2**64 - 2**63) >> 16


@pytest.mark.parametrize("layer", [Conv("c", X, 1, 1), Linear("c", X, 1)])
def test_a_missing_weight_is_an_error(layer):
    with pytest.raises(KeyError, match="c.weight"):
        run([layer], image())
