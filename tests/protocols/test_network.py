"""Network descriptions: shapes against torch, every size from 8 up, one text per network, and hostile texts."""

import dataclasses
import json
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from protocols.errors import NetworkDescriptionError
from protocols.float_evaluation import evaluate_float
from protocols.layers import (
    LAYER_TYPES,
    Add,
    AvgPool,
    Clamp,
    Concat,
    Conv,
    Gate,
    Layer,
    PixelShuffle,
    PixelUnshuffle,
    Product,
    Relu,
    Scale,
)
from protocols.network import IMAGE_WIRE, MAX_LAYERS, Network
from tests.protocols.every_layer import EVERY_LAYER, weights_of

quick = settings(max_examples=60, deadline=None, database=None)
sides = st.integers(8, 40)


def test_the_example_has_every_layer():
    assert {type(layer) for layer in EVERY_LAYER.layers} == set(LAYER_TYPES.values())


def test_shape_vector():
    assert EVERY_LAYER.wire_shapes(9, 13) == {
        "image": (1, 12, 16),
        "folded": (4, 6, 8),
        "sigma": (1, 6, 8),
        "entry": (5, 6, 8),
        "widen": (8, 6, 8),
        "filter": (8, 6, 8),
        "gate": (4, 6, 8),
        "mean": (4, 1, 1),
        "attention": (4, 1, 1),
        "attended": (4, 6, 8),
        "half": (6, 3, 4),
        "rectified": (6, 3, 4),
        "largest": (4, 3, 4),
        "average": (4, 3, 4),
        "both": (10, 3, 4),
        "mix": (4, 3, 4),
        "limited": (4, 3, 4),
        "sum": (4, 3, 4),
        "square": (4, 3, 4),
        "scaled": (4, 3, 4),
        "expand": (16, 3, 4),
        "residual": (1, 12, 16),
        "output": (1, 12, 16),
    }
    assert EVERY_LAYER.output_shape(9, 13) == (1, 9, 13)


@given(height=sides, width=sides)
@settings(quick, max_examples=10)
def test_every_size_from_8_up_fits_and_keeps_its_size(height, width):
    assert EVERY_LAYER.output_shape(height, width) == (1, height, width)
    image = torch.zeros(1, 1, height, width)
    out = evaluate_float(EVERY_LAYER, {k: v.float() for k, v in weights_of(EVERY_LAYER).items()}, image, torch.zeros(1))
    assert out.shape == (1, 1, height, width)


@given(
    height=sides,
    width=sides,
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
@quick
def test_convolution_shapes_are_torch_shapes(height, width, kernel, stride, padding, dilation):
    layer = Conv("out", IMAGE_WIRE, 3, kernel, stride, min(padding, dilation * (kernel - 1)), dilation)
    try:
        shape = layer.shape([(1, height, width)])
    except NetworkDescriptionError:
        assert dilation * (kernel - 1) + 1 > min(height, width) + 2 * layer.padding
        return
    weight = torch.zeros(layer.parameters([(1, height, width)])["out.weight"])
    image = torch.zeros(1, 1, height, width)
    assert shape == functional.conv2d(image, weight, None, stride, layer.padding, dilation).shape[1:]


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 1), (0, 64)])
def test_images_below_8_are_refused(size):
    with pytest.raises(NetworkDescriptionError, match="at least 8 pixels"):
        EVERY_LAYER.wire_shapes(*size)


def test_parameter_shapes_are_in_order_of_the_layers():
    assert list(EVERY_LAYER.parameter_shapes().items()) == [
        ("widen.weight", (8, 5, 3, 3)),
        ("widen.bias", (8,)),
        ("filter.weight", (8, 1, 3, 3)),
        ("filter.bias", (8,)),
        ("attention.weight", (4, 4)),
        ("attention.bias", (4,)),
        ("half.weight", (6, 2, 3, 3)),
        ("mix.weight", (4, 10, 1, 1)),
        ("mix.bias", (4,)),
        ("expand.weight", (16, 4, 1, 1)),
        ("expand.bias", (16,)),
    ]


@given(height=sides, width=sides)
@quick
def test_parameters_do_not_depend_on_the_size_behind_a_global_pool(height, width):
    assert EVERY_LAYER.parameter_shapes(height, width) == EVERY_LAYER.parameter_shapes()


def test_only_a_network_with_a_sigma_map_is_conditioned():
    assert EVERY_LAYER.conditioned
    assert not Network((Relu("out", IMAGE_WIRE),)).conditioned


# --- text ---


def test_json_round_trip():
    again = Network.from_json(EVERY_LAYER.to_json())
    assert again == EVERY_LAYER
    assert again.to_json() == EVERY_LAYER.to_json()
    assert again.digest == EVERY_LAYER.digest


def test_text_vector():
    # the digest binds pushes, plans and orders: another text for the same network would be another network
    network = Network((Conv("c", IMAGE_WIRE, 2, 1), Gate("g", "c"), Scale("s", "g", 2.0)), multiple=2, weight_frac_bits=12)
    assert network.to_json() == (
        '{"layers":[{"bias":true,"dilation":1,"groups":1,"kernel":1,"op":"conv","out":"c","out_channels":2,"padding":0,'
        '"source":"image","stride":1},{"op":"gate","out":"g","source":"c"},'
        '{"factor":2.0,"op":"scale","out":"s","source":"g"}],"multiple":2,"weight_frac_bits":12}'
    )
    assert network.digest.hex() == "cde7a82009b440a20c52cfbaa6651d1fb8d7c32b55b3ee680216b9b5075c173e"


def test_one_network_has_one_digest_however_it_is_written():
    text = json.dumps(json.loads(EVERY_LAYER.to_json()), indent=2)
    assert Network.from_json(text).digest == EVERY_LAYER.digest
    real = Network((Scale("s", IMAGE_WIRE, 2.0),))
    assert Network.from_json(real.to_json().replace("2.0", "2")).digest == real.digest
    bounds = Network((Clamp("c", IMAGE_WIRE, 0.0, 1.0),))
    for low, high in (("0", "1"), ("-0.0", "1.0"), ("-0", "1e0")):
        text = bounds.to_json().replace('"low":0.0', f'"low":{low}').replace('"high":1.0', f'"high":{high}')
        assert Network.from_json(text).digest == bounds.digest


def changed_fields():
    for index, layer in enumerate(EVERY_LAYER.layers):
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            if field.type is int:
                yield index, field.name, value + 1
            elif field.type is float:
                yield index, field.name, value / 2
            elif field.type is bool:
                yield index, field.name, not value
            else:
                yield index, field.name, value + "x"


@pytest.mark.parametrize(("index", "name", "value"), list(changed_fields()))
def test_every_attribute_is_bound_by_the_digest(index, name, value):
    content = json.loads(EVERY_LAYER.to_json())
    content["layers"][index][name] = value
    try:
        other = Network.from_json(json.dumps(content))
    except NetworkDescriptionError:
        return  # it no longer fits: as good
    assert other.digest != EVERY_LAYER.digest


@pytest.mark.parametrize(("name", "value"), [("multiple", 8), ("weight_frac_bits", 11)])
def test_the_frame_is_bound_by_the_digest(name, value):
    assert dataclasses.replace(EVERY_LAYER, **{name: value}).digest != EVERY_LAYER.digest


# --- what does not fit ---

X = IMAGE_WIRE
MISFITS = {
    "no layers": ([], "1 to 512 layers"),
    "too many layers": ([Relu(f"r{i}", X) for i in range(MAX_LAYERS + 1)], "1 to 512 layers"),
    "unknown wire": ([Relu("a", "b")], "unknown wire 'b'"),
    "wire read before it is written": ([Add("a", X, "b"), Relu("b", X)], "unknown wire 'b'"),
    "wire written twice": ([Relu("a", X), Relu("a", X)], "written twice"),
    "the image written": ([Relu(X, X)], "written twice"),
    "nameless wire": ([Relu("", X)], "no name for a wire"),
    "wire named by a path": ([Relu("../a", X)], "no name for a wire"),
    "wire named by a new line": ([Relu("a\n", X)], "no name for a wire"),
    "long name": ([Relu("a" * 65, X)], "no name for a wire"),
    "odd gate": ([Gate("a", X)], "even number of channels"),
    "product of two shapes": ([PixelUnshuffle("u", X, 2), Product("p", "u", X)], "cannot multiply"),
    "product the wrong way": ([AvgPool("m", X, 0), Product("p", "m", X)], "cannot multiply"),
    "sum of two shapes": ([PixelUnshuffle("u", X, 2), Add("p", "u", X)], "cannot add"),
    "planes of two sizes": ([PixelUnshuffle("u", X, 2), Concat("p", "u", X)], "cannot concatenate"),
    "unshuffle of an odd side": ([PixelUnshuffle("u", X, 3)], "no multiple of 3"),
    "shuffle of too few channels": ([PixelShuffle("u", X, 2)], "no multiple of 4"),
    "channels that do not divide": ([Conv("c", X, 3, 1, groups=3)], "not multiples of 3 groups"),
    "too many channels": ([Conv("c", X, 4097, 1)], "at most 4096"),
    "no channels": ([Conv("c", X, 0, 1)], "too small"),
    "kernel beyond the image": ([Conv("c", X, 1, 65)], "too small"),
    "padding beyond the kernel": ([Conv("c", X, 1, 3, padding=3)], "cannot be padded by 3"),
    "reach beyond any image": ([Conv("c", X, 1, 3, padding=400, dilation=400)], "reaches 800 pixels"),
    "pool beyond the image": ([AvgPool("p", X, 65)], "smaller than the window"),
    "scale that is no number": ([lambda: Scale("s", X, float("nan"))], "is not within"),
    "endless scale": ([lambda: Scale("s", X, float("inf"))], "is not within"),
    "scale out of range": ([lambda: Scale("s", X, -1025.0)], "is not within"),
    "bound that is no number": ([lambda: Clamp("c", X, float("nan"), 1.0)], "low is nan, not within"),
    "endless bound": ([lambda: Clamp("c", X, 0.0, float("inf"))], "high is inf, not within"),
    "bound beyond every wire": ([lambda: Clamp("c", X, -(2.0**20) - 1, 0.0)], "low is -1048577.0, not within"),
    "bound off the grid": ([lambda: Clamp("c", X, 0.0, 0.1)], r"high is 0.1, which is no multiple of 2\^-16"),
    "bound on a finer grid": ([lambda: Clamp("c", X, 2.0**-17, 1.0)], r"low is .*, which is no multiple of 2\^-16"),
    "one bound": ([lambda: Clamp("c", X, 1.0, 1.0)], "low is 1.0, which is not below high, 1.0"),
    "bounds the wrong way": ([lambda: Clamp("c", X, 1.0, 0.0)], "not below high"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits_are_refused(name):
    layers, message = MISFITS[name]
    with pytest.raises(NetworkDescriptionError, match=message):
        Network(tuple(layer if isinstance(layer, Layer) else layer() for layer in layers))


def check_as_installed(**values):
    """Network's own checks, without the type checks that exist under pytest only."""
    network = object.__new__(Network)
    for name, value in {"layers": (Relu("a", X),), "multiple": 1, "weight_frac_bits": 16, **values}.items():
        object.__setattr__(network, name, value)
    Network.__post_init__(network)


@pytest.mark.parametrize("multiple", [0, 65, -1, 2.0, True, "2", None, [2]])
def test_a_bad_multiple_is_refused(multiple):
    check_as_installed(multiple=2)
    with pytest.raises(NetworkDescriptionError, match="multiple must be an integer in 1..64"):
        check_as_installed(multiple=multiple)


@pytest.mark.parametrize("bits", [7, 17, 12.0, False, "12"])
def test_a_bad_weight_grid_is_refused(bits):
    check_as_installed(weight_frac_bits=12)
    with pytest.raises(NetworkDescriptionError, match="weight_frac_bits must be an integer in 8..16"):
        check_as_installed(weight_frac_bits=bits)


def with_layer(**attributes):
    return json.dumps({"layers": [{"op": "conv", "out": "c", "source": X, "out_channels": 1, "kernel": 1} | attributes]})


HOSTILE = {
    "empty": "",
    "no JSON": "{",
    "not an object": "[]",
    "a number": "7",
    "nothing": "null",
    "no layers": "{}",
    "layers of another kind": '{"layers": 7}',
    "layers as text": '{"layers": "conv"}',
    "a layer of another kind": '{"layers": [7]}',
    "no operation": '{"layers": [{}]}',
    "unknown operation": '{"layers": [{"op": "exec"}]}',
    "operation that is no text": '{"layers": [{"op": ["conv"]}]}',
    "an attribute of the class": with_layer(geometry=1),
    "a dunder": with_layer(__class__="x"),
    "a missing attribute": '{"layers": [{"op": "conv", "out": "c", "source": "image"}]}',
    "an unknown frame": '{"layers": [{"op": "relu", "out": "r", "source": "image"}], "extra": 1}',
    "text for a number": with_layer(kernel="3"),
    "a fraction for a number": with_layer(kernel=1.0),
    "a truth for a number": with_layer(kernel=True),
    "a number for a truth": with_layer(bias=1),
    "a number for a name": with_layer(out=7),
    "zero kernel": with_layer(kernel=0),
    "zero stride": with_layer(stride=0),
    "zero dilation": with_layer(dilation=0),
    "zero groups": with_layer(groups=0),
    "zero channels": with_layer(out_channels=0),
    "negative padding": with_layer(padding=-1),
    "huge kernel": with_layer(kernel=1 << 40),
    "huge padding": with_layer(kernel=3, padding=1 << 22),
    "huge dilation": with_layer(kernel=3, dilation=1 << 22),
    "endless integer": '{"layers": [{"op": "avg_pool", "out": "c", "source": "image", "kernel": 1' + "0" * 5000 + "}]}",
    "integer beyond float": '{"layers": [{"op": "scale", "out": "c", "source": "image", "factor": 1' + "0" * 400 + "}]}",
    "a truth for a factor": '{"layers": [{"op": "scale", "out": "c", "source": "image", "factor": true}]}',
    "NaN": '{"layers": [{"op": "scale", "out": "c", "source": "image", "factor": NaN}]}',
    "Infinity": '{"layers": [{"op": "scale", "out": "c", "source": "image", "factor": -Infinity}]}',
    "a bound off the grid": '{"layers": [{"op": "clamp", "out": "c", "source": "image", "low": 0, "high": 0.1}]}',
    "no upper bound": '{"layers": [{"op": "clamp", "out": "c", "source": "image", "low": 0}]}',
    "an endless bound": '{"layers": [{"op": "clamp", "out": "c", "source": "image", "low": 0, "high": Infinity}]}',
    "a bound that is text": '{"layers": [{"op": "clamp", "out": "c", "source": "image", "low": "0", "high": 1.0}]}',
    "zero features": '{"layers": [{"op": "linear", "out": "c", "source": "image", "out_features": 0}]}',
    "zero shuffle": '{"layers": [{"op": "pixel_unshuffle", "out": "c", "source": "image", "factor": 0}]}',
    "deep nesting": "[" * 200_000,
    "deep nesting inside": '{"layers": ' + "[" * 200_000,
    "half a surrogate pair": '{"layers": [{"op": "relu", "out": "\\ud800", "source": "image"}]}',
    "a long unknown operation": json.dumps({"layers": [{"op": "x" * 100_000}]}),
    "a long unknown attribute": with_layer(**{"y" * 100_000: 1}),
    "a long unknown frame": json.dumps({"layers": [{"op": "relu", "out": "r", "source": X}], "z" * 100_000: 1}),
    "a long value": with_layer(kernel="9" * 100_000),
    "a long name": with_layer(out="n" * 100_000, kernel="3"),
    "a long source": with_layer(source="s" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_refused_with_a_short_message(name):
    started = time.perf_counter()
    with pytest.raises(NetworkDescriptionError) as caught:
        Network.from_json(HOSTILE[name])
    assert len(str(caught.value)) < 500  # it travels in a gRPC status, whose metadata is limited to 8 KiB
    assert time.perf_counter() - started < 5


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(index=st.integers(0, len(EVERY_LAYER.layers) - 1), data=st.data())
@settings(quick, max_examples=80)
def test_any_value_in_any_place_is_refused_or_read(index, data):
    content = json.loads(EVERY_LAYER.to_json())
    layer = content["layers"][index]
    name = data.draw(st.sampled_from([*layer, "layers", "multiple", "weight_frac_bits"]))
    (layer if name in layer else content)[name] = data.draw(json_values)
    try:
        network = Network.from_json(json.dumps(content))
    except NetworkDescriptionError:
        return
    assert Network.from_json(network.to_json()) == network
    assert all(min(shape) > 0 for shape in network.wire_shapes(64, 64).values())
