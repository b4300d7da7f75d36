"""Dealer and servers on different hosts, as far as a machine can tell."""

import ipaddress
import socket
from pathlib import Path

import pytest

from proto import separation
from proto.party import Settings
from proto.separation import is_this_machine, require_apart, require_elsewhere, require_separate_dealer
from protocols.errors import ConfigurationError

HOSTS = {
    "dealer.example": ["203.0.113.9"],
    "a.example": ["203.0.113.1", "2001:db8::1"],
    "b.example": ["203.0.113.2"],
    "also-a.example": ["2001:db8::1"],
    "local.example": ["127.0.0.1"],
}


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

    monkeypatch.setattr(separation.socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("dealer", "a", "b"),
    [
        ("dealer.example:1", "a.example:1", "b.example:1"),
        ("unknown-d:1", "unknown-a:1", "unknown-b:1"),
        ("203.0.113.9:1", "[2001:db8::9]:1", "b.example:1"),
    ],
)
def test_different_hosts_pass(dealer: str, a: str, b: str) -> None:
    require_apart([dealer], {"server-a": [a], "server-b": [b]})


@pytest.mark.parametrize(
    ("dealer", "servers"),
    [
        (["a.example:9"], {"server-a": ["a.example:1"]}),
        (["A.example:9"], {"server-a": ["a.example:1"]}),
        (["unknown:9"], {"server-b": ["unknown:1"]}),
        (["203.0.113.1:9"], {"server-a": ["a.example:1"]}),
        (["also-a.example:9"], {"server-a": ["a.example:1"]}),
        (["[::ffff:203.0.113.2]:9"], {"server-b": ["b.example:1"]}),
        (["dealer.example:9", "b.example:9"], {"server-b": ["b.example:1"]}),
        (["dealer.example:9"], {"server-b": ["b.example:1", "203.0.113.9:1"]}),
        (["127.0.0.2:9"], {"server-a": ["127.0.0.1:1"]}),
        (["local.example:9"], {"server-a": ["a.example:1"]}),
        (["[::1]:9"], {"server-a": ["a.example:1"]}),
    ],
    ids=lambda value: str(value),
)
def test_one_host_for_two_is_refused_with_the_reason(dealer: list[str], servers: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigurationError, match="whoever has the dealer and one server has every image"):
        require_apart(dealer, servers)


def test_which_addresses_are_ours() -> None:
    assert is_this_machine(ipaddress.ip_address("127.0.0.1"))
    assert is_this_machine(ipaddress.ip_address("127.1.2.3"))
    assert not is_this_machine(ipaddress.ip_address("203.0.113.1"))  # RFC 5737: nobody's


def test_a_peer_on_this_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the dealer at local.example:7600 is on this machine"):
        require_elsewhere("the dealer", "local.example:7600")
    require_elsewhere("the dealer", "dealer.example:7600")
    require_elsewhere("server A", "unknown:1")
    with pytest.raises(ConfigurationError, match="not known on this machine"):
        require_elsewhere("the dealer", "unknown:1", must_resolve=True)


def settings(folder: Path, text: str) -> Settings:
    (folder / "x.toml").write_text(text)
    return Settings.load(folder / "x.toml")


SERVER_B = (
    '{deployment}advertised = "b.example:1"\n[dealer]\naddress = "{dealer}"\n[leader]\naddress = "a.example:1 203.0.113.7:1"\n'
)


@pytest.mark.parametrize(
    ("dealer", "reason"),
    [
        ("127.0.0.1:9", "on this machine"),
        ("b.example:9", "is the host of this server"),
        ("also-a.example:9", "is the host of server A"),
        ("unknown:9", "not known"),
        ("dealer.example:9 127.0.0.1:9", "on this machine"),
        ("dealer.example:9 also-a.example:9", "is the host of server A"),
        ("dealer.example:9 203.0.113.7:9", "is the host of server A"),
        ("dealer.example:9 unknown:9", "not known"),
    ],
)
def test_a_server_does_not_start_beside_the_dealer(tmp_path: Path, dealer: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        require_separate_dealer(settings(tmp_path, SERVER_B.format(deployment="", dealer=dealer)))
    require_separate_dealer(settings(tmp_path, SERVER_B.format(deployment='deployment = "simulation"\n', dealer=dealer)))
    require_separate_dealer(settings(tmp_path, SERVER_B.format(deployment="", dealer="dealer.example:9")))


def test_a_dealer_does_not_start_beside_a_server(tmp_path: Path) -> None:
    for server_b in ("127.0.0.1:2", "b.example:2 127.0.0.1:2"):
        with pytest.raises(ConfigurationError, match=r"server-b at 127.0.0.1:2 is on this machine"):
            require_separate_dealer(settings(tmp_path, f'[servers]\nserver-a = "a.example:1"\nserver-b = "{server_b}"\n'))
    require_separate_dealer(settings(tmp_path, '[servers]\nserver-a = "a.example:1"\nserver-b = "unknown:2"\n'))


def test_a_deployment_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'simulated'"):
        require_separate_dealer(settings(tmp_path, 'deployment = "simulated"\n'))
