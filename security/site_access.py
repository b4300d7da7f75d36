"""Reach the parties of a running simulation with the certificates of its site: as the edge, as either server.

For evaluations and tests that play a party. The files are those of the site's own folders; the real parties use the same.
"""

import os
import signal
import tomllib
from functools import partial

from darkroom.settings_files import dealer_settings, server_settings
from darkroom.simulation import MODULES, Simulation
from proto.separation import SIMULATION
from proto.transport import Identity, Peer


def identity(cluster: Simulation, name: str) -> Identity:
    """The identity of one party."""
    site = cluster.site
    return Identity(site.certificate(name, held_by=name).read_bytes(), site.private_key(name).read_bytes())


def peer(cluster: Simulation, name: str) -> Peer:
    """One party to call: server-a, server-b or dealer."""
    addresses = {
        "server-a": cluster.addresses.server_a,
        "server-b": cluster.addresses.server_b,
        "dealer": dealer_address(cluster),
    }
    return Peer(name, addresses[name], cluster.site.certificate(name, held_by=name).read_bytes())


def dealer_address(cluster: Simulation) -> str:
    """Where the dealer listens, as server A was told."""
    settings = tomllib.loads((cluster.site.folder("server-a") / "server.toml").read_text())
    return str(settings["dealer"]["address"])


def metrics_of(cluster: Simulation, name: str) -> str | None:
    """Where a party was told to show its metrics; None: nowhere."""
    file = "dealer.toml" if name == "dealer" else "server.toml"
    settings = tomllib.loads((cluster.site.folder(name) / file).read_text())
    return str(settings["metrics"]["listen"]) if "metrics" in settings else None


def kill(cluster: Simulation, name: str) -> None:
    """Kill -9 of one party's process: server-a, server-b or dealer."""
    os.kill(cluster.processes.names[name], signal.SIGKILL)


def restart(cluster: Simulation, name: str) -> None:
    """Start a party again, on the address that it had. Raises PeerUnavailableError."""
    site, addresses = cluster.site, cluster.addresses
    dealer, metrics = dealer_address(cluster), metrics_of(cluster, name)
    match name:
        case "dealer":
            settings = dealer_settings(site, dealer, deployment=SIMULATION, metrics=metrics)
            ready = "dealer.ready"
        case "server-a":
            address = addresses.server_a
            settings = server_settings(site, name, address, dealer=dealer, deployment=SIMULATION, metrics=metrics)
            ready = "a.ready"
        case _:
            told = partial(server_settings, site, name, addresses.server_b, dealer=dealer, leader=addresses.server_a)
            settings = told(deployment=SIMULATION, metrics=metrics)
            ready = "b.ready"
    cluster.processes.start(name, MODULES[name], settings, site.logs / f"{name}.log", site.folder(name) / ready)
