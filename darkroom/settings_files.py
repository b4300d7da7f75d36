"""The TOML files of an installation: what each process and each of the hospital's programs is told.

Paths in a file are relative to the file's own folder, so that a role's folder can be moved.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.files import replacing
from darkroom.provision import Site
from darkroom.site_addresses import FILE, SiteAddresses
from proto.separation import OPERATORS

Table = Mapping[str, "str | Mapping[str, str]"]

# The hospital's and the model owner's files, by what they hold.
CLIENT_FILE: Final = "client.toml"
EDGE_FILE: Final = "edge.toml"
HOSPITAL_FILE: Final = "hospital.toml"
MODEL_OWNER_FILE: Final = "model-owner.toml"
WINDOW: Final = "24h"  # how long a grant opens an object, unless the user says otherwise


@dataclass(frozen=True)
class Addresses:
    """Where the servers are dialled, as HOST:PORT; several with blanks between (`proto.addresses`)."""

    server_a: str
    server_b: str


def render(table: Table) -> str:
    """TOML of strings and tables of strings. JSON's escapes are TOML's, which wants one more: that of DEL."""
    lines = [_entry(key, value) for key, value in table.items() if isinstance(value, str)]
    for name, section in table.items():
        if not isinstance(section, str):
            lines += ["", f"[{name}]", *(_entry(key, value) for key, value in section.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def write_settings(path: Path, table: Table) -> Path:
    """Write one file, whole. Raises ConfigurationError."""
    with replacing(path) as file:
        file.write(render(table).encode())
    return path


def dealer_settings(
    site: Site,
    listen: str,
    *,
    deployment: str = OPERATORS,
    advertised: str | None = None,
    servers: Mapping[str, str] | None = None,
    metrics: str | None = None,
) -> Path:
    """Write the dealer's file.

    servers: addresses of server A and server B, by name; it refuses to start on their machines. deployment, advertised,
    metrics: as in `server_settings`.
    """
    return write_settings(
        site.folder("dealer") / "dealer.toml",
        {
            "listen": listen,
            **_place(deployment, advertised),
            "ready_file": "dealer.ready",
            "identity": _identity("dealer"),
            "peers": {name: f"certs/{name}.crt" for name in ("server-a", "server-b")},
            **({"servers": servers} if servers else {}),
            **({"metrics": {"listen": metrics}} if metrics else {}),
        },
    )


def server_settings(
    site: Site,
    name: str,
    listen: str,
    *,
    dealer: str,
    leader: str | None = None,
    deployment: str = OPERATORS,
    advertised: str | None = None,
    metrics: str | None = None,
) -> Path:
    """Write a server's file. name: server-a or server-b. dealer, leader: addresses; leader is server A's, for B only.

    listen: what is bound. advertised: what others dial, where that is another. deployment: OPERATORS or SIMULATION
    (`proto.separation`); only a simulation starts beside the dealer. metrics: HOST:PORT where Prometheus finds them; None:
    nowhere.
    """
    letter = name[-1]
    callers = ["client", "edge", "model-owner", *(["server-b"] if letter == "a" else [])]
    table: dict[str, str | dict[str, str]] = {
        "role": letter.upper(),
        "listen": listen,
        **_place(deployment, advertised),
        "ready_file": f"{letter}.ready",
        "store": f"{letter}.store",
        "grant_public_key": "certs/grant.pub",
        "identity": _identity(name),
        "peers": {caller: f"certs/{caller}.crt" for caller in callers},
        "dealer": {"address": dealer, "certificate": "certs/dealer.crt"},
    }
    if leader is not None:
        table["leader"] = {"address": leader, "certificate": "certs/server-a.crt"}
    if metrics is not None:
        table["metrics"] = {"listen": metrics}
    return write_settings(site.folder(name) / "server.toml", table)


def hospital_settings(site: Site, addresses: Addresses) -> None:
    """Write client.toml, edge.toml, hospital.toml (both) and model-owner.toml into the root, for one machine with all folders."""
    model_owner = {"model_owner": _keys(site, "model-owner", site.root)}
    _write_hospital_files(site, site.root, addresses, model_owner)
    _write_with_servers(site, site.root, MODEL_OWNER_FILE, "model-owner", addresses, model_owner)


def role_settings(site: Site, role: str, addresses: SiteAddresses) -> None:
    """Write what one role's folder needs to be moved as it is: its settings, and the addresses they were made from.

    Raises ConfigurationError.
    """
    folder = site.root / "hospital" if role == "hospital" else site.folder(role)
    if role in ("hospital", "model-owner"):
        servers = Addresses(addresses.dialled(role, "server-a"), addresses.dialled(role, "server-b"))
        if role == "hospital":
            _write_hospital_files(site, folder, servers, {})
        else:
            _write_with_servers(site, folder, MODEL_OWNER_FILE, role, servers, {"model_owner": _keys(site, role, folder)})
    elif role == "dealer":
        reached = {name: addresses.all_of(name) for name in ("server-a", "server-b")}
        dealer_settings(site, addresses.listen(role), advertised=addresses.advertised[role][0], servers=reached)
    else:
        server_settings(
            site,
            role,
            addresses.listen(role),
            dealer=addresses.dialled(role, "dealer"),
            leader=addresses.dialled(role, "server-a") if role == "server-b" else None,
            advertised=addresses.advertised[role][0],
        )
    write_settings(folder / FILE, addresses.tables())


def _write_hospital_files(site: Site, folder: Path, addresses: Addresses, more: Table) -> None:
    client = {
        "client": {
            **_keys(site, "client", folder),
            "noise_key": _relative(folder, site.noise_key),
            "signing_key": _relative(folder, site.signing_key),
        }
    }
    edge = {"edge": _keys(site, "edge", folder)}
    hospital = {"hospital": {"objects": _relative(folder, site.objects), "window": WINDOW, "edge_name": "edge"}}
    for name, holder, sections in (
        (CLIENT_FILE, "client", {**client, **hospital}),
        (EDGE_FILE, "edge", {**edge, **hospital}),
        (HOSPITAL_FILE, "client", {**client, **edge, **more, **hospital}),
    ):
        _write_with_servers(site, folder, name, holder, addresses, sections)


def _write_with_servers(site: Site, folder: Path, name: str, holder: str, addresses: Addresses, sections: Table) -> None:
    servers = {
        f"servers.{letter}": {
            "address": address,
            "certificate": _relative(folder, site.certificate(f"server-{letter}", held_by=holder)),
        }
        for letter, address in (("a", addresses.server_a), ("b", addresses.server_b))
    }
    write_settings(folder / name, {**servers, **sections})


def _place(deployment: str, advertised: str | None) -> dict[str, str]:
    return {"deployment": deployment, **({} if advertised is None else {"advertised": advertised})}


def _identity(name: str) -> dict[str, str]:
    return {"certificate": f"certs/{name}.crt", "private_key": f"{name}.key"}


def _keys(site: Site, identity: str, folder: Path) -> dict[str, str]:
    return {
        "certificate": _relative(folder, site.certificate(identity, held_by=identity)),
        "private_key": _relative(folder, site.private_key(identity)),
    }


def _relative(folder: Path, path: Path) -> str:
    return os.path.relpath(path, folder)


def _entry(key: str, value: str) -> str:
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{key} = {text}"
