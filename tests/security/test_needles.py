import base64
import io
import json

import numpy as np
import pytest
import torch
from google.protobuf.wrappers_pb2 import BytesValue

from protocols.fixed_point import encode
from protocols.ring import to_bytes
from security.needles import key_needles, number_needles, search, text_needles

KEY = bytes((37 * i + 11) % 251 for i in range(32))
TEXT = "CANARY^PATIENT"
STORED = [912, -37, 1203, 2288, 4001, 1999, 3, 740]
REALS = [(value + 1024) / 4096 for value in STORED]
AROUND = np.random.default_rng(1).bytes(3001)


def tensor_text() -> bytes:
    return repr(torch.tensor(REALS[:4], dtype=torch.float64)).encode()


def numpy_text() -> bytes:
    return np.array2string(np.array(STORED)[2:6], separator=" ").encode()


NUMBERS = {
    "float32": np.array(REALS, "<f4").tobytes(),
    "float32, big endian": np.array(REALS, ">f4").tobytes(),
    "float64": np.array(REALS, "<f8").tobytes(),
    "float64, big endian": np.array(REALS, ">f8").tobytes(),
    "int16 as stored": np.array(STORED, "<i2").tobytes(),
    "int16 as stored, big endian": np.array(STORED, ">i2").tobytes(),
    "int64 as stored": np.array(STORED, "<i8").tobytes(),
    "ring words": to_bytes(encode(torch.tensor(REALS))),
    "ring words, big endian": encode(torch.tensor(REALS)).numpy().astype(">i8").tobytes(),
    "ring words as hex": to_bytes(encode(torch.tensor(REALS))).hex().encode(),
    "ring words as base64": base64.b64encode(b"xy" + to_bytes(encode(torch.tensor(REALS))) + b"z"),
    "JSON": json.dumps({"pixels": REALS}).encode(),
    "JSON without spaces": json.dumps(REALS, separators=(",", ":")).encode(),
    "JSON of words": json.dumps(encode(torch.tensor(REALS)).tolist()).encode(),
    "integers": str(STORED).encode(),
    "decimals": " ".join(f"{value:.6f}" for value in REALS).encode(),
}
KEYS = {
    "raw": KEY,
    "hex": KEY.hex().encode(),
    "upper-case hex": KEY.hex().upper().encode(),
    "repr": repr({"key": KEY}).encode(),
    "repr in a JSON log": json.dumps({"event": repr(KEY)}).encode(),
    "printed protobuf in a JSON log": json.dumps({"event": str(BytesValue(value=KEY))}).encode(),
    "list": str(list(KEY)).encode(),
    "JSON list": json.dumps(list(KEY), separators=(",", ":")).encode(),
    "base64": base64.b64encode(KEY),
    "URL base64": base64.urlsafe_b64encode(KEY),
    "base64 one byte later": base64.b64encode(b"a" + KEY + b"tail"),
    "base64 two bytes later": base64.b64encode(b"ab" + KEY + b"tail"),
}
TEXTS = {
    "utf-8": TEXT.encode(),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16, big endian": TEXT.encode("utf-16-be"),
    "hex": TEXT.encode().hex().encode(),
    "base64": base64.b64encode(f"name={TEXT};".encode()),
    "JSON": json.dumps({"name": TEXT}).encode(),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_pixels_are_found_in_each_encoding(name):
    needles = number_needles("pixels", REALS, stored=STORED)
    assert search(AROUND + NUMBERS[name] + AROUND, needles)
    assert not search(AROUND, needles)


def test_numbers_are_found_as_tensors_and_arrays_print_them():
    assert search(tensor_text(), number_needles("pixels", REALS[:4]))
    assert search(numpy_text(), number_needles("pixels", REALS[2:6], stored=STORED[2:6]))


@pytest.mark.parametrize("name", KEYS)
def test_a_key_is_found_in_each_encoding(name):
    needles = key_needles("key", KEY)
    assert search(AROUND + KEYS[name] + AROUND, needles)
    assert not search(AROUND, needles)


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_found_in_each_encoding(name):
    needles = text_needles("name", TEXT)
    assert search(AROUND + TEXTS[name] + AROUND, needles)
    assert not search(AROUND, needles)


def test_an_npy_file_is_found():
    out = io.BytesIO()
    np.save(out, np.array(REALS))
    assert search(out.getvalue(), number_needles("pixels", REALS[2:7]))


def test_chance_does_not_find_anything():
    needles = [*key_needles("key", KEY), *text_needles("name", TEXT), *number_needles("pixels", REALS, stored=STORED)]
    assert min(len(needle.pattern) for needle in needles) >= 6
    assert search(np.random.default_rng(2).bytes(1 << 20), needles) == []


def test_needles_do_not_print_their_secret():
    assert not search(repr(key_needles("key", KEY)).encode(), key_needles("key", KEY))
