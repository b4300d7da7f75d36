"""Streams and derived keys: known answers from an independent composition, addressing, and no overlap."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError
from protocols.prg import KEY_BYTES, Prg, derive_key, fresh_key

VECTORS = json.loads((Path(__file__).parent / "vectors" / "prg.json").read_text())
KEY = bytes(range(32))
quick = settings(max_examples=60, deadline=None, database=None)
labels = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("vector", VECTORS["streams"], ids=lambda v: v["name"])
def test_stream_vector(vector):
    stream = Prg(bytes.fromhex(vector["key"])).stream(vector["label"], vector["kind"], vector["count"])
    assert stream.hex() == vector["stream"]


@pytest.mark.parametrize("vector", VECTORS["derived"], ids=lambda v: v["name"])
def test_derived_key_vector(vector):
    context = [bytes.fromhex(part) for part in vector["context"]]
    assert derive_key(bytes.fromhex(vector["secret"]), *context, length=vector["length"]).hex() == vector["key"]


@pytest.mark.parametrize("tampered", VECTORS["tampered"], ids=lambda v: v["name"])
def test_tampered_vector_fails_at_the_named_step(tampered):
    vector = VECTORS["streams"][0] | tampered["change"]
    step, message = "Prg", ""
    try:
        prg = Prg(bytes.fromhex(vector["key"]))
        step = "stream"
        stream = prg.stream(vector["label"], vector["kind"], vector["count"])
        step = "compare" if stream.hex() != vector["stream"] else "none"
    except LocalProtocolError as error:
        message = str(error)
    assert step == tampered["step"]
    assert bool(message) == (step != "compare")


@given(label=labels, kind=labels, count=st.integers(0, 100), more=st.integers(0, 100))
@quick
def test_a_longer_stream_starts_with_the_shorter(label, kind, count, more):
    prg = Prg(KEY)
    assert prg.stream(label, kind, count + more)[:count] == prg.stream(label, kind, count)


@given(first=st.tuples(labels, labels), second=st.tuples(labels, labels))
@quick
def test_two_addresses_share_no_block(first, second):
    if first == second:
        return
    prg = Prg(KEY)
    blocks = [bytes(prg.stream(*address, 16 * 64)[i : i + 16]) for address in (first, second) for i in range(0, 16 * 64, 16)]
    assert len(set(blocks)) == 128


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
@quick
def test_two_contexts_never_give_one_key(first, second):
    assert (derive_key(KEY, *first) == derive_key(KEY, *second)) == (first == second)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3), (1, 2, 3, 4)])
def test_words_are_the_stream_in_little_endian(shape):
    words = Prg(KEY).words(3, 4, shape)
    assert tuple(words.shape) == shape
    assert words.dtype == torch.int64
    assert b"".join(w.to_bytes(8, "little", signed=True) for w in words.flatten().tolist()) == Prg(KEY).stream(
        3, 4, words.numel() * 8
    )


def test_words_may_be_written_to_without_touching_the_stream():
    first = Prg(KEY).words(0, 0, (4,))
    first.zero_()
    assert Prg(KEY).words(0, 0, (4,)).any()


def test_fresh_keys_are_fresh():
    keys = {fresh_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(len(key) == KEY_BYTES for key in keys)


@given(counts=st.lists(st.integers(0, 20_000), max_size=5))
@quick
def test_a_reader_gives_the_stream_piece_by_piece(counts):
    reader = Prg(KEY).reader(5, 6)
    pieces = [reader.words(count) for count in counts]
    assert torch.equal(torch.cat([torch.empty(0, dtype=torch.int64), *pieces]), Prg(KEY).words(5, 6, (sum(counts),)))


def test_a_reader_fills_what_it_is_given_and_nothing_beside_it():
    whole = torch.zeros(10, dtype=torch.int64)
    Prg(KEY).reader(5, 6).fill(whole[2:7])
    assert torch.equal(whole[2:7], Prg(KEY).words(5, 6, (5,)))
    assert not whole[:2].any()
    assert not whole[7:].any()
