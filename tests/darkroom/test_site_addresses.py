"""Advertised and bound addresses, several of each, and routes."""

from pathlib import Path

import pytest

from darkroom.provision import provision
from darkroom.settings_files import write_settings
from darkroom.site_addresses import SiteAddresses, parse_advertised, parse_bound, parse_route
from proto.transport import certificate_name
from protocols.errors import BadInputError, ConfigurationError
from tests.darkroom.test_provision import names_in

NOTHING = {"advertised": {}, "bound": {}, "routes": {}}
TOLD = {
    "advertised": {"server-a": ("a.example:7601", "203.0.113.1:7601", "[2001:db8::1]:7601"), "dealer": ("203.0.113.9:1",)},
    "bound": {"server-a": "10.0.0.1:7601", "server-b": None},
    "routes": {"server-b:server-a": "10.9.0.1:7701"},
}


def test_who_dials_what() -> None:
    addresses = SiteAddresses().changed(**TOLD)
    assert addresses.dialled("hospital", "server-a") == "a.example:7601 203.0.113.1:7601 [2001:db8::1]:7601"
    assert addresses.dialled("server-b", "server-a") == "10.9.0.1:7701"
    assert addresses.dialled("server-b", "dealer") == "203.0.113.9:1"
    assert addresses.hosts("server-a") == ["a.example", "203.0.113.1", "2001:db8::1", "10.9.0.1"]


def test_what_is_bound() -> None:
    addresses = SiteAddresses().changed(**TOLD)
    assert addresses.listen("server-a") == "10.0.0.1:7601"
    assert addresses.listen("dealer") == "0.0.0.0:1"
    local = addresses.changed(**{**NOTHING, "advertised": {"server-b": ("127.0.0.1:5",)}})
    assert local.listen("server-b") == "127.0.0.1:5"


def test_the_next_time_keeps_what_it_is_not_told(tmp_path: Path) -> None:
    addresses = SiteAddresses().changed(**TOLD)
    path = write_settings(tmp_path / "addresses.toml", addresses.tables())
    again = SiteAddresses.load(path)
    assert again == addresses
    moved = again.changed(**{**NOTHING, "advertised": {"server-b": ("b2.example:1",)}})
    assert moved.dialled("hospital", "server-a") == addresses.dialled("hospital", "server-a")
    assert moved.dialled("hospital", "server-b") == "b2.example:1"
    assert SiteAddresses.load(tmp_path / "none.toml") == SiteAddresses()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for content in ("advertised = 1", "[advertised]\nserver-a = 'a:1'\n", "["):
        (tmp_path / "addresses.toml").write_text(content)
        with pytest.raises(ConfigurationError, match=r"addresses\.toml"):
            SiteAddresses.load(tmp_path / "addresses.toml")


@pytest.mark.parametrize(
    "route", ["", "server-b:server-a", "server-a:server-b=h:1", "dealer:server-a=h:1", "server-b=h:1", "a:b:c=h:1"]
)
def test_routes_that_nobody_takes(route: str) -> None:
    with pytest.raises(BadInputError, match="CALLER:PARTY=HOST:PORT"):
        parse_route(route)


@pytest.mark.parametrize("text", ["a.example:7601", "a:1", "10.0.0.1:65535", "[2001:db8::1]:7601", "xn--mnchen-3ya.example:7601"])
def test_addresses(text: str) -> None:
    assert parse_bound(text) == parse_advertised(text) == text
    assert parse_route(f"hospital:server-a={text}") == ("hospital:server-a", text)


@pytest.mark.parametrize(
    "text", ["", "host", "7600", "host:", "a b:1", "a:1 b:2", "http://a:1", "a/b:1", "klinik-münchen.example:1", "[a]:x", "-a:1"]
)
def test_addresses_that_are_none(text: str) -> None:
    for parse in (parse_bound, parse_advertised):
        with pytest.raises(BadInputError, match="is no address") as caught:
            parse(text)
        assert repr(text) in str(caught.value)
    with pytest.raises(BadInputError, match="is no route: "):
        parse_route(f"hospital:server-a={text}")


def test_nobody_can_dial_port_0() -> None:
    assert parse_bound("10.0.0.1:0") == "10.0.0.1:0"
    with pytest.raises(BadInputError, match="1 to 65535"):
        parse_advertised("10.0.0.1:0")


@pytest.mark.parametrize("route", [("server-a:dealer", "203.0.113.1:9"), ("server-b:dealer", "127.0.0.1:9")])
def test_a_dealer_beside_a_server_by_a_route(route: tuple[str, str]) -> None:
    addresses = SiteAddresses().changed(**TOLD)
    addresses.require_separate_dealer()
    with pytest.raises(ConfigurationError, match="whoever has the dealer"):
        addresses.changed(**{**NOTHING, "routes": dict([route])}).require_separate_dealer()


def test_all_names_stand_in_the_certificate_and_the_identity_first(tmp_path: Path) -> None:
    addresses = SiteAddresses().changed(**TOLD)
    site = provision(tmp_path, hosts={"server-a": addresses.hosts("server-a")})
    pem = site.certificate("server-a", held_by="server-b").read_bytes()
    assert certificate_name(pem) == "server-a"
    assert names_in(pem) == ["server-a", "a.example", "203.0.113.1", "2001:db8::1", "10.9.0.1"]
    assert names_in(site.certificate("server-b", held_by="server-a").read_bytes()) == ["server-b"]
    with pytest.raises(ConfigurationError, match="xn--"):
        provision(tmp_path / "other", hosts={"server-a": ["klinik-münchen.example"]})
