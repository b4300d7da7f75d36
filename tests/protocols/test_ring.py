"""Z_{2^64}: words and bytes, and convolution against integers of unlimited size."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from protocols.errors import RemoteProtocolError
from protocols.prg import Prg
from protocols.ring import ConvGeometry, conv2d, from_bytes, to_bytes

HIGH, LOW = 2**63 - 1, -(2**63)
as_installed = inspect.unwrap
quick = settings(max_examples=60, deadline=None, database=None)
ring_words = st.integers(LOW, HIGH) | st.sampled_from([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH])


def uniform(label: int, *shape: int) -> torch.Tensor:
    return Prg(bytes(32)).words(label, 0, shape)


def wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def slow_conv2d(x: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> list[int]:
    """The definition, in Python's integers; reduced modulo 2^64 at the very end."""
    channels, height, width = x.shape
    c_out, c_group, kh, kw = weight.shape
    padding, stride, dilation = geometry.padding, geometry.stride, geometry.dilation
    h_out = (height + 2 * padding - dilation * (kh - 1) - 1) // stride + 1
    w_out = (width + 2 * padding - dilation * (kw - 1) - 1) // stride + 1
    pixels, taps = x.tolist(), weight.tolist()
    out = []
    for o in range(c_out):
        first = o // (c_out // geometry.groups) * c_group
        for row in range(h_out):
            for column in range(w_out):
                total = 0
                for c in range(c_group):
                    for dy in range(kh):
                        for dx in range(kw):
                            y, x_ = row * stride + dy * dilation - padding, column * stride + dx * dilation - padding
                            if 0 <= y < height and 0 <= x_ < width:
                                total += pixels[first + c][y][x_] * taps[o][c][dy][dx]
                out.append(wrapped(total))
    return out


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c_group, out_group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 2))
    smallest = [max(1, dilation * (k - 1) + 1 - 2 * padding) for k in kernel]
    size = [draw(st.integers(low, low + 4)) for low in smallest]
    return (groups * c_group, *size), (groups * out_group, c_group, *kernel), ConvGeometry(stride, padding, dilation, groups)


@given(case=convolutions(), label=st.integers(0, 2**31 - 1))
@quick
def test_convolution_is_exact_for_words_of_full_size(case, label):
    x_shape, w_shape, geometry = case
    x, weight = uniform(2 * label, *x_shape), uniform(2 * label + 1, *w_shape)
    assert conv2d(x, weight, geometry).flatten().tolist() == slow_conv2d(x, weight, geometry)


# one case for each way through conv2d, larger than its blocks: pointwise, depthwise, grouped, several blocks of rows
SHAPES = {
    "pointwise": ((96, 40, 41), (5, 96, 1, 1), ConvGeometry()),
    "pointwise, strided": ((4, 9, 7), (3, 4, 1, 1), ConvGeometry(stride=2)),
    "depthwise": ((3, 17, 9), (3, 1, 3, 3), ConvGeometry(1, 1, 1, 3)),
    "depthwise, dilated": ((3, 17, 9), (3, 1, 3, 3), ConvGeometry(2, 2, 2, 3)),
    "depthwise with a multiplier": ((3, 9, 9), (6, 1, 3, 3), ConvGeometry(1, 1, 1, 3)),
    "one channel": ((1, 9, 9), (1, 1, 3, 3), ConvGeometry(1, 1)),
    "grouped": ((4, 9, 8), (6, 2, 3, 3), ConvGeometry(1, 1, 1, 2)),
    "many blocks": ((16, 64, 65), (4, 16, 3, 3), ConvGeometry(1, 1)),
    "rows wider than a block": ((64, 3, 300), (2, 64, 3, 3), ConvGeometry(1, 1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_convolution_agrees_with_torch(name):
    x_shape, w_shape, geometry = SHAPES[name]
    x, weight = uniform(1, *x_shape), uniform(2, *w_shape)
    expected = functional.conv2d(x[None], weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)[0]
    assert torch.equal(conv2d(x, weight, geometry), expected)


def test_arguments_are_left_alone():
    x, weight = uniform(1, 2, 8, 8), uniform(2, 2, 1, 3, 3)
    copies = x.clone(), weight.clone()
    conv2d(x, weight, ConvGeometry(1, 1, 1, 2))
    assert torch.equal(x, copies[0])
    assert torch.equal(weight, copies[1])


def test_a_view_that_is_not_contiguous():
    x, weight = uniform(1, 9, 8, 4).permute(2, 0, 1), uniform(2, 3, 4, 3, 3)
    assert torch.equal(conv2d(x, weight, ConvGeometry()), conv2d(x.contiguous(), weight, ConvGeometry()))


@given(words=st.lists(ring_words, max_size=20))
@quick
def test_bytes_round_trip(words):
    tensor = torch.tensor(words, dtype=torch.int64)
    assert torch.equal(from_bytes(to_bytes(tensor), (len(words),)), tensor)


def test_byte_vector():
    # little-endian two's complement, row-major: the wire's format, so it never changes
    words = torch.tensor([[1, -2], [HIGH, LOW]])
    expected = "0100000000000000feffffffffffffffffffffffffffff7f0000000000000080"
    assert to_bytes(words).hex() == expected
    assert from_bytes(bytes.fromhex(expected), (2, 2)).tolist() == words.tolist()
    assert to_bytes(words.T).hex() == expected[:16] + expected[32:48] + expected[16:32] + expected[48:]


@pytest.mark.parametrize("length", [0, 8, 15, 17, 24])
def test_bytes_of_another_length_are_refused(length):
    with pytest.raises(RemoteProtocolError, match=f"expected 2 ring words .16 bytes., got {length} bytes"):
        as_installed(from_bytes)(bytes(length), (2,))


def test_words_do_not_alias_the_buffer():
    buffer = bytearray(16)
    words = from_bytes(buffer, (2,))
    buffer[0] = 7
    assert words.tolist() == [0, 0]
