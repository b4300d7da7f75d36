"""Where the dealer and the servers are: the addresses that others dial, apart from the one that each binds.

A party may have several host names and addresses. Others try them in order, unless a route names the one that they dial: the
hospital may reach server A by another address than server B does. All of them stand in its certificate.
"""

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from client.files import read_file
from proto.addresses import SEPARATOR, listed, resolve, split_address
from proto.separation import require_apart
from protocols.errors import BadInputError, ConfigurationError

LISTENERS: Final = ("server-a", "server-b", "dealer")
DIALS: Final = {
    "hospital": ("server-a", "server-b"),
    "model-owner": ("server-a", "server-b"),
    "server-a": ("dealer",),
    "server-b": ("server-a", "dealer"),
}
# Names that the operators' own host tables or name servers explain, until told otherwise.
DEFAULT: Final = {"server-a": ("server-a:7601",), "server-b": ("server-b:7602",), "dealer": ("dealer:7600",)}
EVERY_INTERFACE: Final = "0.0.0.0"  # noqa: S104 - what is bound is said in the operator's own file, and can be changed there
FILE: Final = "addresses.toml"
_HOST_NAME: Final = re.compile(r"(?!.{254})[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")  # stands in a certificate as it is


@dataclass(frozen=True)
class SiteAddresses:
    """All addresses of an installation, HOST:PORT. Public."""

    advertised: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(DEFAULT))
    bound: Mapping[str, str] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)  # by "CALLER:PARTY"

    def dialled(self, caller: str, party: str) -> str:
        """Where `caller` reaches `party`, as an entry of its settings."""
        return self.routes.get(f"{caller}:{party}", self.all_of(party))

    def all_of(self, party: str) -> str:
        """Every advertised address of a party, as an entry of a settings file."""
        return SEPARATOR.join(self.advertised[party])

    def listen(self, party: str) -> str:
        """What a party binds: as told, else its port on every interface (a loopback address: that one alone)."""
        if party in self.bound:
            return self.bound[party]
        address = self.advertised[party][0]
        host, port = split_address(address)
        if any(found.is_loopback for found in resolve(host)):
            return address
        return f"{EVERY_INTERFACE}:{port}"

    def hosts(self, party: str) -> list[str]:
        """Every host name and address of a party, without port, each once."""
        reached = [address for route, address in self.routes.items() if route.endswith(f":{party}")]
        return list(dict.fromkeys(split_address(address)[0] for address in (*self.advertised[party], *reached)))

    def changed(
        self, *, advertised: Mapping[str, tuple[str, ...]], bound: Mapping[str, str | None], routes: Mapping[str, str]
    ) -> Self:
        """These, with what the command line says, parsed, in place of what it names."""
        return replace(
            self,
            advertised={**self.advertised, **{party: addresses for party, addresses in advertised.items() if addresses}},
            bound={**self.bound, **{party: address for party, address in bound.items() if address}},
            routes={**self.routes, **routes},
        )

    def require_separate_dealer(self) -> None:
        """Raises ConfigurationError: the dealer is at server A's or server B's host."""
        dealer = [*self.advertised["dealer"], *self._routes_to("dealer")]
        servers = {name: [*self.advertised[name], *self._routes_to(name)] for name in ("server-a", "server-b")}
        require_apart(dealer, servers)

    def _routes_to(self, party: str) -> list[str]:
        return [address for route, address in self.routes.items() if route.endswith(f":{party}")]

    def tables(self) -> dict[str, dict[str, str]]:
        """As they are written to a role's folder: several addresses stand in one string, separated by blanks."""
        return {
            "advertised": {party: self.all_of(party) for party in self.advertised},
            "bound": dict(self.bound),
            "routes": {route.replace(":", "-to-"): address for route, address in self.routes.items()},
        }

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `tables` was written from; the default where there is no file. Raises ConfigurationError."""
        if not path.exists():
            return cls()
        try:
            content = tomllib.loads(read_file(path, "the addresses").decode())
            return cls(
                advertised={party: listed(str(content["advertised"][party])) for party in LISTENERS},
                bound={str(party): str(address) for party, address in content.get("bound", {}).items()},
                routes={str(route).replace("-to-", ":"): str(address) for route, address in content.get("routes", {}).items()},
            )
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{path} does not say where dealer and servers are ({error}): delete it and name all addresses again"
            ) from error


def parse_bound(text: str) -> str:
    """HOST:PORT that a party binds. Raises BadInputError."""
    try:
        host, _ = split_address(text)
    except ConfigurationError as error:
        raise BadInputError(str(error)) from error
    if not (_HOST_NAME.fullmatch(host) or _is_ip(host)):
        raise BadInputError(f"{text!r} is no address: {host!r} is neither an IP address nor a host name in ASCII (xn--...)")
    return text


def parse_advertised(text: str) -> str:
    """HOST:PORT that others dial. Raises BadInputError."""
    _, port = split_address(parse_bound(text))
    if port == 0:
        raise BadInputError(f"{text!r} is no address that others can dial: write HOST:PORT with a port from 1 to 65535")
    return text


def parse_route(text: str) -> tuple[str, str]:
    """CALLER:PARTY and the address, of CALLER:PARTY=HOST:PORT. Raises BadInputError."""
    route, equals, address = text.partition("=")
    caller, _, party = route.partition(":")
    if not equals or party not in DIALS.get(caller, ()):
        known = ", ".join(f"{caller}:{party}" for caller, parties in DIALS.items() for party in parties)
        raise BadInputError(f"{text!r} is no route: write CALLER:PARTY=HOST:PORT, where CALLER:PARTY is one of {known}")
    try:
        return route, parse_advertised(address)
    except BadInputError as error:
        raise BadInputError(f"{text!r} is no route: {error}") from error


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
