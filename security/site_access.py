"""Reach the parties of a running simulation with the certificates of its site: as the edge, as either server.

For evaluations and tests that play a party. The files are those of the site's own folders; the real parties use the same.
"""

import os
import signal
import tomllib

from darkroom.settings_files import hospital_settings, server_settings
from darkroom.simulation import Simulation
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


def kill_server_b(cluster: Simulation) -> None:
    """Kill -9 of server B's process."""
    os.kill(cluster.processes.names["server-b"], signal.SIGKILL)


def restart_server_b(cluster: Simulation) -> None:
    """Start server B again, on the address that it had. Raises PeerUnavailableError."""
    site, addresses, processes = cluster.site, cluster.addresses, cluster.processes
    dealer = dealer_address(cluster)
    settings = server_settings(site, "server-b", addresses.server_b, dealer=dealer, leader=addresses.server_a)
    log, ready = site.logs / "server-b.log", site.folder("server-b") / "b.ready"
    processes.start("server-b", "server_b", settings, log, ready)
    hospital_settings(site, addresses)
