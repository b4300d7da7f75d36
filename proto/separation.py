"""The dealer runs on neither server's host: the dealer together with server A or B learns everything.

Checked where addresses are chosen (`darkroom provision`) and again where a party starts, because only there is it certain which
machine this is. The local simulation says in its settings that it is one (`deployment = "simulation"`), and is let through: it
protects nothing, and says so. What this cannot see: two addresses of one machine behind other names, containers on one host,
two operators who are one. Those are the operators' word (docs/deployment.md).
"""

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Final

from proto.party import Settings
from protocols.errors import ConfigurationError

SIMULATION: Final = "simulation"
OPERATORS: Final = "operators"
REASON: Final = (
    "whoever has the dealer and one server has every image of this installation: give the dealer a machine of its own,"
    " run by neither operator (to try Darkroom on one machine: `darkroom up`)"
)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


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
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return frozenset()
    addresses = (ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found)
    return frozenset(getattr(address, "ipv4_mapped", None) or address for address in addresses)


def is_this_machine(address: IpAddress) -> bool:
    """Whether an address belongs to this machine: only then can a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def require_apart(dealer: Iterable[str], servers: Mapping[str, Iterable[str]]) -> None:
    """Compare the dealer's addresses with both servers'. Run where addresses are chosen.

    dealer, servers: HOST:PORT each; servers by name. Raises ConfigurationError: the dealer's host is a server's, by name or by
    address; or it is a loopback address, which is the caller's own machine whoever calls.
    """
    hosts = [split_address(address)[0] for address in dealer]
    for host in hosts:
        if any(address.is_loopback for address in resolve(host)):
            raise ConfigurationError(
                f"the dealer's address {host} is the calling server's own machine (loopback): {REASON}",
            )
    for name, addresses in servers.items():
        for other in (split_address(address)[0] for address in addresses):
            for host in hosts:
                if host.lower() == other.lower() or resolve(host) & resolve(other):
                    raise ConfigurationError(f"the dealer's host {host} is the host of {name} ({other}): {REASON}")


def require_elsewhere(name: str, address: str, *, must_resolve: bool = False) -> None:
    """Raises ConfigurationError: `name`, at this address, would be on this machine. Run at start, by server and dealer.

    must_resolve: an unknown name is an error too, because we have to dial it.
    """
    host, _ = split_address(address)
    found = resolve(host)
    if must_resolve and not found:
        raise ConfigurationError(f"{name}'s host {host} is not known on this machine: add it to the name server or to /etc/hosts")
    if any(map(is_this_machine, found)):
        raise ConfigurationError(f"{name} at {address} is on this machine: {REASON}")


def require_separate_dealer(settings: Settings) -> None:
    """Refuse to start beside the dealer (a server) or beside a server (the dealer), outside the simulation.

    Reads [dealer] address and [leader] address (a server's file) or [servers] (the dealer's). Raises ConfigurationError.
    """
    if is_simulation(settings):
        return
    servers = dict(settings.table("servers"))
    for name, address in servers.items():
        require_elsewhere(name, address)
    if "dealer" in settings.values:
        dealer = settings.text("dealer", "address")
        require_elsewhere("the dealer", dealer, must_resolve=True)
        own = settings.text("advertised", default="")
        known = {"this server": [own] if own else []}
        if "leader" in settings.values:
            known["server A"] = [settings.text("leader", "address")]
        require_apart([dealer], known)


def is_simulation(settings: Settings) -> bool:
    """Whether the settings are the local simulation's. Raises ConfigurationError: they name another kind."""
    kind = settings.text("deployment", default=OPERATORS)
    if kind not in (OPERATORS, SIMULATION):
        raise ConfigurationError(f'{settings.path}: deployment must be "{OPERATORS}" or "{SIMULATION}", not {kind!r}')
    return kind == SIMULATION
