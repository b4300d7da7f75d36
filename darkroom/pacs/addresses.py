"""AE titles and addresses as an administrator types them: `HOST:PORT`, `AET@HOST:PORT`, IPv6 in brackets.

Source: DICOM PS3.5, 6.2 (AE: at most 16 characters of the default repertoire, no backslash, no control characters).
"""

import ipaddress
from dataclasses import dataclass
from typing import Final

from protocols.errors import BadInputError

AET_LENGTH: Final = 16
_PORTS: Final = 65535


@dataclass(frozen=True)
class Address:
    """Where to listen or connect."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine is reached by it. A name other than localhost is taken for one of a network."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class DicomPeer:
    """An application entity: its title, and where it listens."""

    aet: str
    address: Address

    def __str__(self) -> str:
        return f"{self.aet}@{self.address}"


def parse_aet(text: str) -> str:
    """An AE title. Raises BadInputError."""
    title = text.strip()
    if not 1 <= len(title) <= AET_LENGTH or "\\" in title or not (title.isascii() and title.isprintable()):
        raise BadInputError(f"{text!r} is not an AE title: 1 to {AET_LENGTH} printable ASCII characters without backslash")
    return title


def parse_address(text: str, *, any_port: bool = False) -> Address:
    """HOST:PORT. any_port: port 0, which the system chooses, is allowed. Raises BadInputError."""
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or (":" in host and not text.startswith("[")) or not (port.isascii() and port.isdigit()):
        raise BadInputError(f"{text!r} is not HOST:PORT (an IPv6 address in brackets)")
    if not (0 if any_port else 1) <= int(port) <= _PORTS:
        raise BadInputError(f"{text!r}: the port must be from 1 to {_PORTS}")
    return Address(host, int(port))


def parse_peer(text: str) -> DicomPeer:
    """AET@HOST:PORT. Raises BadInputError."""
    title, at, address = text.rpartition("@")
    if not at:
        raise BadInputError(f"{text!r} is not AET@HOST:PORT, such as PACS@10.0.0.5:104")
    return DicomPeer(parse_aet(title), parse_address(address))
