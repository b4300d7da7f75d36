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

Table = Mapping[str, "str | Mapping[str, str]"]

# The hospital's and the model owner's files, by what they hold.
CLIENT_FILE: Final = "client.toml"
EDGE_FILE: Final = "edge.toml"
HOSPITAL_FILE: Final = "hospital.toml"
MODEL_OWNER_FILE: Final = "model-owner.toml"
WINDOW: Final = "24h"  # how long a grant opens an object, unless the user says otherwise


@dataclass(frozen=True)
class Addresses:
    """Where the servers listen, as HOST:PORT."""

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


def dealer_settings(site: Site, listen: str) -> Path:
    """Write the dealer's file."""
    return write_settings(
        site.folder("dealer") / "dealer.toml",
        {
            "listen": listen,
            "ready_file": "dealer.ready",
            "identity": _identity("dealer"),
            "peers": {name: f"certs/{name}.crt" for name in ("server-a", "server-b")},
        },
    )


def server_settings(site: Site, name: str, listen: str, *, dealer: str, leader: str | None = None) -> Path:
    """Write a server's file. name: server-a or server-b. dealer, leader: addresses; leader is server A's, for B only."""
    letter = name[-1]
    callers = ["client", "edge", "model-owner", *(["server-b"] if letter == "a" else [])]
    table: dict[str, str | dict[str, str]] = {
        "role": letter.upper(),
        "listen": listen,
        "ready_file": f"{letter}.ready",
        "store": f"{letter}.store",
        "grant_public_key": "certs/grant.pub",
        "identity": _identity(name),
        "peers": {caller: f"certs/{caller}.crt" for caller in callers},
        "dealer": {"address": dealer, "certificate": "certs/dealer.crt"},
    }
    if leader is not None:
        table["leader"] = {"address": leader, "certificate": "certs/server-a.crt"}
    return write_settings(site.folder(name) / "server.toml", table)


def hospital_settings(site: Site, addresses: Addresses) -> None:
    """Write client.toml, edge.toml, hospital.toml (both) and model-owner.toml."""
    client = {
        "client": {
            **_keys(site, "client"),
            "noise_key": _relative(site, site.noise_key),
            "signing_key": _relative(site, site.signing_key),
        }
    }
    edge = {"edge": _keys(site, "edge")}
    model_owner = {"model_owner": _keys(site, "model-owner")}
    hospital = {"hospital": {"objects": _relative(site, site.objects), "window": WINDOW, "edge_name": "edge"}}
    for name, holder, sections in (
        (CLIENT_FILE, "client", {**client, **hospital}),
        (EDGE_FILE, "edge", {**edge, **hospital}),
        (HOSPITAL_FILE, "client", {**client, **edge, **model_owner, **hospital}),
        (MODEL_OWNER_FILE, "model-owner", model_owner),
    ):
        servers = {
            f"servers.{letter}": {
                "address": address,
                "certificate": _relative(site, site.certificate(f"server-{letter}", held_by=holder)),
            }
            for letter, address in (("a", addresses.server_a), ("b", addresses.server_b))
        }
        write_settings(site.root / name, {**servers, **sections})


def _identity(name: str) -> dict[str, str]:
    return {"certificate": f"certs/{name}.crt", "private_key": f"{name}.key"}


def _keys(site: Site, identity: str) -> dict[str, str]:
    return {
        "certificate": _relative(site, site.certificate(identity, held_by=identity)),
        "private_key": _relative(site, site.private_key(identity)),
    }


def _relative(site: Site, path: Path) -> str:
    return os.path.relpath(path, site.root)


def _entry(key: str, value: str) -> str:
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{key} = {text}"
