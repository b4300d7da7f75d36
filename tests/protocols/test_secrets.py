"""No secret-bearing type of the mathematics prints its secret: repr, str, format, containers, and a log at DEBUG."""

import base64
import logging
from dataclasses import dataclass

import pytest
import torch

from protocols.blind import FusedImage
from protocols.packing import NoiseKeys, key_check_value
from protocols.prg import Prg
from protocols.sharing import SharePair, share

KEY, OTHER = bytes(range(65, 97)), bytes(range(97, 129))
WORDS = torch.tensor([[7777777777777777, -8888888888888888], [65432, 54321]])
SECRETS = {
    "Prg": Prg(KEY),
    "SharePair": SharePair(KEY, WORDS),
    "NoiseKeys": NoiseKeys(KEY, OTHER),
    "FusedImage": FusedImage(WORDS.double() / 65536, weight=0.5, divergence=0.25),
}


def needles() -> list[str]:
    """Every way in which Python, torch or a logger would spell the keys and words above."""
    keys = [KEY[:6], OTHER[:6]]
    texts = [repr(k)[2:-1] for k in keys] + [k.hex() for k in keys] + [base64.b64encode(k).decode() for k in keys]
    texts += [", ".join(str(b) for b in k) for k in keys]
    reals = [f"{value:.4e}"[:6] for value in (WORDS.double() / 65536).flatten().tolist()] + [
        str(v)[:6] for v in (65432 / 65536, 54321 / 65536)
    ]
    return texts + [str(value) for value in WORDS.flatten().tolist()] + reals + ["tensor(", "bytearray("]


def found_in(text: str) -> list[str]:
    return [needle for needle in needles() if needle in text]


@pytest.mark.parametrize("name", SECRETS)
def test_nothing_prints_it(name, caplog):
    value = SECRETS[name]
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("test_secrets")
    logger.debug("%s %r", value, value)
    logger.debug("in containers: %s %s %s", [value], {"key": value}, (value,))
    texts = [
        repr(value),
        str(value),
        format(value),
        f"{value}",
        f"{value!r}",
        f"{value!s}",
        f"{value!a}",
        f"{[value]}",
        caplog.text,
    ]
    assert name in caplog.text
    assert [found for text in texts for found in found_in(text)] == []


@pytest.mark.parametrize("secret", [KEY, WORDS, WORDS.double() / 65536], ids=["bytes", "words", "reals"])
def test_the_search_finds_a_type_that_does_print(secret):
    @dataclass(frozen=True)
    class Careless:
        secret: object

    assert found_in(repr(Careless(secret)))


@pytest.mark.parametrize("name", SECRETS)
def test_it_is_not_compared_by_value(name):
    value = SECRETS[name]
    assert value == value  # noqa: PLR0124 - identity only: `==` must neither compare tensors nor leak timing
    assert type(value).__eq__ is object.__eq__


def test_errors_do_not_quote_keys():
    for build in (lambda: Prg(KEY[:31]), lambda: NoiseKeys(KEY[:31], OTHER), lambda: NoiseKeys(KEY, KEY)):
        with pytest.raises(Exception, match="key") as caught:
            build()
        assert found_in(str(caught.value)) == []


def test_a_check_value_says_nothing_printable_about_the_keys():
    assert found_in(repr(key_check_value(NoiseKeys(KEY, OTHER), bytes(16)))) == []


def test_a_share_pair_from_share_is_hidden_too():
    assert repr(share(WORDS, seed=KEY)) == "SharePair()"
