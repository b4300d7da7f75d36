"""Quantities are read as a user writes them, and refused with what is expected."""

import pytest

from darkroom.units import parse_bandwidth, parse_delay, parse_size
from protocols.errors import BadInputError


@pytest.mark.parametrize(
    ("text", "value"), [("1Gbit", 1e9), ("100Mbit", 1e8), ("2.5 Gbit/s", 2.5e9), ("64kbit", 64e3), ("1gbitps", 1e9)]
)
def test_bandwidth(text: str, value: float) -> None:
    assert parse_bandwidth(text) == value


@pytest.mark.parametrize(("text", "value"), [("20ms", 0.02), ("0.1s", 0.1), ("500us", 5e-4), ("0ms", 0.0)])
def test_delay(text: str, value: float) -> None:
    assert parse_delay(text) == pytest.approx(value)


def test_size() -> None:
    assert parse_size("300x484") == (300, 484)


@pytest.mark.parametrize("text", ["", "512", "512x", "0x8", "512x512x3", "-1x5", "a x b", "5.5x6"])
def test_no_size(text: str) -> None:
    with pytest.raises(BadInputError, match="such as 512x512"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "1", "Gbit", "1GB", "0Mbit", "-1Mbit", "1e3Mbit", "nan", "1ms"])
def test_no_bandwidth(text: str) -> None:
    with pytest.raises(BadInputError, match="kbit, mbit, gbit"):
        parse_bandwidth(text)


@pytest.mark.parametrize("text", ["", "20", "-5ms", "1h", "ms", "1Gbit"])
def test_no_delay(text: str) -> None:
    with pytest.raises(BadInputError, match="us, ms, s"):
        parse_delay(text)
