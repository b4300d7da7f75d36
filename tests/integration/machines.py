"""Machines as Linux network namespaces: each has one address of its own on a common bridge, and sees its own folder alone.

Needs root and iproute2. `ip netns exec` gives every command a mount namespace of its own, in which the other machines' folders
are covered and the host table is ours. Everything made here carries a name that nobody else has, and is removed at the end.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from darkroom.child_processes import GRACE_SECONDS, Child, _wait_until_ready

REPOSITORY = Path(__file__).parents[2]
COMMAND_SECONDS = 240
IP = shutil.which("ip") or ""
COVER = 'mount --bind "$1" /etc/hosts; shift; while [ "$1" != -- ]; do mount -t tmpfs none "$1"; shift; done; shift'


def missing() -> str:
    """Why machines cannot be made here; empty where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not IP:
        return "network namespaces need iproute2 (the command `ip`)"
    name = f"dk{secrets.token_hex(3)}"
    made = subprocess.run([IP, "netns", "add", name], capture_output=True, text=True)
    subprocess.run([IP, "netns", "del", name], capture_output=True)
    return f"network namespaces cannot be made here: {made.stderr.strip()}" if made.returncode else ""


def _ip(*arguments: str) -> None:
    done = subprocess.run([IP, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


@dataclass
class Machine:
    """One of them."""

    name: str
    address: str
    namespace: str
    folder: Path
    hosts: Path
    others: Sequence[Path] = ()
    running: list[Child] = field(default_factory=list)

    def _command(self, arguments: Sequence[object]) -> list[str]:
        script = f'set -e; {COVER}; exec "$@"'
        covered = [str(self.hosts), *map(str, self.others), "--"]
        return [IP, "netns", "exec", self.namespace, "sh", "-c", script, "sh", *covered, *map(str, arguments)]

    def run(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run a command here, in this machine's folder, to its end."""
        return subprocess.run(
            self._command(arguments),
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=environment(),
            timeout=COMMAND_SECONDS,
        )

    def darkroom(self, *arguments: object) -> str:
        """A command that succeeds; its standard output."""
        done = self.run(sys.executable, "-m", "darkroom", *arguments)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def start(self, module: str, config: Path, ready: Path) -> str:
        """Start a party here; its advertised address once it is ready."""
        log = self.folder / f"{module}.log"
        command = self._command([sys.executable, "-P", "-m", module, "--config", config])
        with log.open("ab") as output:
            popen = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.folder, env=environment())
        self.running.append(Child(f"{module} on {self.name}", popen, log))
        return _wait_until_ready(self.running[-1], ready)

    def stop(self) -> None:
        for child in reversed(self.running):
            child.popen.terminate()
            try:
                child.popen.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                child.popen.kill()
                child.popen.wait()


def environment() -> dict[str, str]:
    """Ours, with the repository first; gRPC takes no way around our network."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


@contextlib.contextmanager
def machines(root: Path, addresses: Mapping[str, str], hosts: str) -> Generator[dict[str, Machine]]:
    """Machines by name on one bridge, which stands in a namespace too. hosts: the host table of all of them."""
    mark = f"dk{secrets.token_hex(3)}"
    bridge = f"{mark}-net"
    made: dict[str, Machine] = {}
    namespaces: list[str] = []
    (root / "hosts").write_text(hosts)

    def add(namespace: str) -> None:
        _ip("netns", "add", namespace)
        namespaces.append(namespace)

    try:
        add(bridge)
        _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "br0", "up")
        for position, (name, address) in enumerate(addresses.items()):
            machine = Machine(name, address, f"{mark}-{name}", root / name, root / "hosts")
            machine.folder.mkdir()
            add(machine.namespace)
            port = f"port{position}"
            _ip("-n", bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
            _ip("-n", bridge, "link", "set", port, "master", "br0", "up")
            _ip("-n", machine.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", machine.namespace, "link", "set", device, "up")
            made[name] = machine
        for machine in made.values():
            machine.others = [other.folder for other in made.values() if other is not machine]
        yield made
    finally:
        for machine in made.values():
            machine.stop()
        for namespace in reversed(namespaces):
            subprocess.run([IP, "netns", "del", namespace], capture_output=True)
