"""What an entry of addresses means, and what gRPC is given to dial; connections are tested in tests/integration."""

import ipaddress
import socket

import pytest

from proto import addresses
from proto.addresses import dial_target, listed, resolve, split_address
from protocols.errors import ConfigurationError

HOSTS = {"a.example": ["203.0.113.2", "203.0.113.1"], "both.example": ["2001:db8::1", "203.0.113.3"]}


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server of our own; literal addresses stand for themselves."""

    def getaddrinfo(host: str, *_args: object, **_named: object) -> list[tuple[object, ...]]:
        try:
            found = [str(ipaddress.ip_address(host))]
        except ValueError:
            found = HOSTS.get(host, [])
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(None, None, None, "", (address, 0)) for address in found]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a.example:7601", ("a.example", 7601)), ("10.0.0.1:0", ("10.0.0.1", 0)), ("[2001:db8::1]:7601", ("2001:db8::1", 7601))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", "host", "host:", ":7601", "2001:db8::1:7601", "host:port", "host:70000", "[]:1", "a:²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        split_address(text)


def test_a_name_that_is_not_known_has_no_address() -> None:
    assert resolve("unknown") == frozenset()
    assert resolve("::ffff:203.0.113.1") == {ipaddress.ip_address("203.0.113.1")}


@pytest.mark.parametrize("text", ["a.example:7601", "unknown:7601", "[2001:db8::1]:7601", "10.0.0.1:1"])
def test_one_address_is_left_to_grpc(text: str) -> None:
    """Which looks its name up for every connection."""
    assert dial_target(text) == text
    assert listed(text) == (text,)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("10.0.0.1:1 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("10.0.0.2:2 10.0.0.1:1", "ipv4:10.0.0.2:2,10.0.0.1:1"),
        ("10.0.0.1:1 a.example:2", "ipv4:10.0.0.1:1,203.0.113.2:2,203.0.113.1:2"),
        ("unknown:1 10.0.0.1:1", "ipv4:10.0.0.1:1"),
        ("10.0.0.1:1 both.example:2", "ipv6:[::ffff:10.0.0.1]:1,[2001:db8::1]:2,[::ffff:203.0.113.3]:2"),
        ("unknown:1 unknown-too:2", "unknown:1"),
    ],
)
def test_several_are_tried_in_order(text: str, target: str) -> None:
    assert dial_target(text) == target


def test_one_of_several_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match=r"'10\.0\.0\.2' is no address"):
        dial_target("10.0.0.1:1 10.0.0.2")
