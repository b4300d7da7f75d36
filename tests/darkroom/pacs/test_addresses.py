"""Addresses as an administrator types them."""

import pytest

from darkroom.pacs.addresses import Address, DicomPeer, parse_address, parse_aet, parse_peer
from protocols.errors import BadInputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PACS@10.0.0.5:104", DicomPeer("PACS", Address("10.0.0.5", 104))),
        ("MY PACS@[::1]:11112", DicomPeer("MY PACS", Address("::1", 11112))),
        ("A@B@pacs.example:1", DicomPeer("A@B", Address("pacs.example", 1))),
    ],
)
def test_peers(text: str, expected: DicomPeer) -> None:
    assert parse_peer(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:65536", "PACS@::1:104", "PACS@host:x", "PACS@:104", "X@h:²"],
)
def test_no_peers(text: str) -> None:
    with pytest.raises(BadInputError):
        parse_peer(text)


@pytest.mark.parametrize("title", ["", " ", "A" * 17, "A\\B", "Ä", "A\nB"])
def test_no_titles(title: str) -> None:
    with pytest.raises(BadInputError, match="AE title"):
        parse_aet(title)


def test_the_system_may_choose_a_port_to_listen_on() -> None:
    assert parse_address("127.0.0.1:0", any_port=True).port == 0


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("192.0.2.1", False), ("ct1", False), ("::", False)],
)
def test_loopback(host: str, here: bool) -> None:
    assert Address(host, 1).is_loopback is here
