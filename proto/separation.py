"""The dealer runs on neither server's host: the dealer together with server A or B learns everything.

Checked where addresses are chosen (`darkroom provision`) and again where a party starts, because only there is it certain which
machine this is. The local simulation says in its settings that it is one (`deployment = "simulation"`), and is let through: it
protects nothing, and says so. What this cannot see: two addresses of one machine behind other names, containers on one host,
two operators who are one. Those are the operators' word (docs/deployment.md).
"""

import socket
from collections.abc import Iterable, Mapping
from typing import Final

from proto.addresses import IpAddress, listed, resolve, split_address
from proto.party import Settings
from protocols.errors import ConfigurationError

SIMULATION: Final = "simulation"
OPERATORS: Final = "operators"
REASON: Final = (
    "whoever has the dealer and one server has every image of this installation: give the dealer a machine of its own,"
    " run by neither operator (to try Darkroom on one machine: `darkroom up`)"
)


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
    for name, addresses in servers.items():
        for address in listed(addresses):
            require_elsewhere(name, address)
    if "dealer" in settings.values:
        dealer = listed(settings.text("dealer", "address"))
        for address in dealer:
            require_elsewhere("the dealer", address, must_resolve=True)
        known = {"this server": listed(settings.text("advertised", default=""))}
        if "leader" in settings.values:
            known["server A"] = listed(settings.text("leader", "address"))
        require_apart(dealer, known)


def is_simulation(settings: Settings) -> bool:
    """Whether the settings are the local simulation's. Raises ConfigurationError: they name another kind."""
    kind = settings.text("deployment", default=OPERATORS)
    if kind not in (OPERATORS, SIMULATION):
        raise ConfigurationError(f'{settings.path}: deployment must be "{OPERATORS}" or "{SIMULATION}", not {kind!r}')
    return kind == SIMULATION
