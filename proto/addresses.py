"""Addresses of a party, HOST:PORT: one, or several in the order in which they are tried, and what gRPC makes of them.

Whoever is met at an address must show the pinned certificate, whichever address it was (`proto.transport`): so several
addresses are as safe as one.
"""

import ipaddress
import socket
from typing import Final

from protocols.errors import ConfigurationError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

SEPARATOR: Final = " "  # between several addresses in one entry of a settings file


def listed(text: str) -> tuple[str, ...]:
    """The addresses of an entry."""
    return tuple(text.split())


def split_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 host stands in brackets. Raises ConfigurationError."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not colon or not bare or (":" in bare) is not bracketed or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"{address!r} is no address: write HOST:PORT, an IPv6 address as [ADDRESS]:PORT")
    return bare, int(port)


def resolve(host: str) -> frozenset[IpAddress]:
    """The addresses of a host as this machine sees them; none where the name is not known here."""
    return frozenset(_looked_up(host))


def dial_target(text: str) -> str:
    """What gRPC dials for an entry. Raises ConfigurationError: one of several is no address.

    One address stays as it is: gRPC looks a name up again for every connection. Several become what they stand for now, since
    gRPC takes no list of names. It tries them in turn, the next one also where one does not answer for a quarter of a second
    (RFC 8305), and keeps the first that completes the handshake.
    """
    addresses = listed(text)
    if len(addresses) == 1:
        return addresses[0]
    found = [(address, port) for host, port in map(split_address, addresses) for address in _looked_up(host)]
    if not found:
        return addresses[0] if addresses else text  # gRPC says what is wrong with it, and looks again
    if all(address.version == 4 for address, _ in found):
        return "ipv4:" + ",".join(f"{address}:{port}" for address, port in found)
    return "ipv6:" + ",".join(f"[{_in_version_6(address)}]:{port}" for address, port in found)


def _looked_up(host: str) -> list[IpAddress]:
    """In the order that the system prefers (RFC 6724)."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return []
    addresses = (ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found)
    return list(dict.fromkeys(getattr(address, "ipv4_mapped", None) or address for address in addresses))


def _in_version_6(address: IpAddress) -> str:
    return f"::ffff:{address}" if address.version == 4 else str(address)
