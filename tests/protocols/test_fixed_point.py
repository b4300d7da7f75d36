"""Fixed-point encoding: exact round trips on the grid, half a step off it, and refusals."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import EncodingRangeError
from protocols.fixed_point import ENCODING_LIMIT, FRAC_BITS, decode, encode, encode_image

VECTORS = json.loads((Path(__file__).parent / "vectors" / "fixed_point.json").read_text())
quick = settings(max_examples=100, deadline=None, database=None)
LARGEST = int(ENCODING_LIMIT) << FRAC_BITS


def reals(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("vector", VECTORS["values"], ids=lambda v: v["value"])
def test_encode_vector(vector):
    assert encode(reals(float.fromhex(vector["value"]))).tolist() == [vector["word"]]


@pytest.mark.parametrize("tampered", VECTORS["tampered"], ids=lambda v: v["name"])
def test_tampered_vector_fails_at_the_named_step(tampered):
    value = float.fromhex(tampered["value"])
    step, message = "encode", ""
    try:
        word = encode(reals(value)).item()
        step = "encode_image"
        encode_image(reals(value).view(1, 1))
        step = "compare" if word != tampered["word"] else "none"
    except EncodingRangeError as error:
        message = str(error)
    assert step == tampered["step"]
    assert step == "compare" or ("NaN or infinity" if not math.isfinite(value) else f"{value:g}") in message


@given(st.lists(st.integers(-LARGEST, LARGEST) | st.sampled_from([-LARGEST, LARGEST, 0, 1, -1]), max_size=20))
@quick
def test_words_on_the_grid_survive_exactly(words):
    tensor = torch.tensor(words, dtype=torch.int64)
    assert torch.equal(encode(decode(tensor)), tensor)


@given(st.floats(-ENCODING_LIMIT, ENCODING_LIMIT), st.integers(0, 32))
@quick
def test_rounding_is_at_most_half_a_step(value, frac_bits):
    assert abs(decode(encode(reals(value), frac_bits=frac_bits), frac_bits=frac_bits).item() - value) <= 2.0 ** -(frac_bits + 1)


@given(st.integers(-1000, 1000))
@quick
def test_ties_go_to_even(step):
    assert encode(reals((step + 0.5) / 2**FRAC_BITS)).item() == step + step % 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_are_widened_before_scaling(dtype):
    value = torch.tensor([1.5, -2.0, 1000.1], dtype=dtype)  # 1.5 * 2^16 is infinite in half precision
    assert encode(value).tolist() == [round(number * 65536) for number in value.tolist()]


def test_an_empty_tensor_encodes_to_itself():
    assert encode(torch.zeros(0, 3)).shape == (0, 3)


def test_image_interval_is_closed():
    assert encode_image(reals(-1.0, 2.0).view(1, 2)).tolist() == [[-65536, 131072]]


def test_one_bad_pixel_among_many_is_refused():
    pixels = torch.full((64, 64), 0.5)
    for bad in (math.nan, math.inf, -math.inf, 2.001, -1.001):
        pixels[63, 63] = bad
        with pytest.raises(EncodingRangeError):
            encode_image(pixels)
