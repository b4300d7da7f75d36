"""The check of one party: may it start, and whom does it reach? `python -m server_a --config FILE --check`.

Run by an operator on its own machine before the start, and whenever something is in doubt. Changes nothing, takes no port.
"""

import argparse
import json
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from proto.checks import (
    GIVE,
    RENEW,
    CheckResult,
    Concern,
    attempt,
    expiry,
    identity_shown,
    machine_state,
    passed,
    peer_state,
    serving,
)
from proto.party import Settings, ready_file
from proto.separation import is_simulation, require_separate_dealer
from proto.transport import Identity, Peer, open_channel
from proto.writable import require_writable, writing
from protocols.errors import ConfigurationError

PEERS: Final = {"dealer": "the dealer", "leader": "server A"}  # section of the file: whom a server calls
ACCEPT: Final = "take it again from its owner (`darkroom accept`)"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def refuse_ignored(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """A usage error (exit code 2) for an option that would be ignored."""
    if arguments.json and not arguments.check:
        parser.error("--json is for --check: a party that serves has no result")
    if arguments.exit_on_stdin_eof and arguments.check:
        parser.error("--exit-on-stdin-eof is not for --check, which ends by itself")


def check_party(settings: Settings, configured: Callable[[], object]) -> list[CheckResult]:
    """All checks of one party. configured: reads the rest of its settings; raises DarkroomError where they are at fault."""
    home = settings.path.absolute().parent
    apart = "give the dealer a machine of its own, at an address that is known here (`darkroom provision --dealer`)"
    results = [
        attempt("settings", configured, f"correct {settings.path}, or have `darkroom provision` write it again"),
        attempt("settings: dealer and servers apart", partial(_apart, settings), apart),
        attempt("folder: closed to others", partial(_closed, home), _close(home)),
        attempt("own certificate and private key", partial(_own, settings), RENEW),
    ]
    folder = ready_file(settings).parent
    write = partial(require_writable, folder, "the folder of the ready file")
    results.append(attempt("folder: can be written", write, _make_writable(folder)))
    results += _pinned(settings)
    results += machine_state(settings.resolve(settings.text("store", default=".")))
    if "store" in settings.values:
        store = settings.resolve(settings.text("store"))
        results.append(attempt("store: closed to others", partial(_closed, store), _close(store)))
        results.append(attempt("store: can be written", partial(_store_writable, store), _make_writable(store)))
    if passed(results):
        for section, name in PEERS.items():
            if section in settings.values:
                results += _peer(settings, settings.peer(name, section))
    return results


def report(results: list[CheckResult], *, as_json: bool) -> str:
    """For standard output."""
    if as_json:
        return json.dumps({"ok": passed(results), "checks": [vars(result) for result in results]}, indent=2)
    return "\n".join(line for result in results for line in result.lines())


def _apart(settings: Settings) -> Concern | None:
    require_separate_dealer(settings)
    if is_simulation(settings):
        return Concern("this is a simulation on one machine: it protects nothing", "for real use: docs/deployment.md")
    return None


def _closed(folder: Path) -> Concern | None:
    if not folder.exists():
        return None
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & _OTHERS:
        return Concern(f"{folder} has mode {mode:04o}: others than its owner can look in", _close(folder))
    return None


def _close(folder: Path) -> str:
    return f"chmod 700 {folder}"


def _store_writable(store: Path) -> None:
    require_writable(store, "the store")
    with writing(store, "the store"):
        below = sorted(path for path in store.iterdir() if path.is_dir()) if store.exists() else []
    for folder in below:
        require_writable(folder, "the store's folder")


def _make_writable(folder: Path) -> str:
    return f"make {folder} a folder that the user who runs this party can write, and check as that user"


def _own(settings: Settings) -> Concern | None:
    identity = settings.identity()
    concern = expiry(identity.certificate)
    _require_pair(identity, settings)
    return concern


def _require_pair(identity: Identity, settings: Settings) -> None:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        key = load_pem_private_key(identity.private_key, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{settings.path}: the private key is not an unencrypted PEM key") from error
    certified = x509.load_pem_x509_certificate(identity.certificate).public_key()
    if key.public_key().public_bytes(*form) != certified.public_bytes(*form):
        raise ConfigurationError(f"{settings.path}: private key and certificate do not belong together")


def _pinned(settings: Settings) -> list[CheckResult]:
    pins = dict(settings.table("peers"))
    pins |= {name: settings.text(section, "certificate") for section, name in PEERS.items() if section in settings.values}
    return [attempt(f"pinned certificate of {name}", partial(_pin, settings, file), ACCEPT) for name, file in pins.items()]


def _pin(settings: Settings, file: str) -> Concern | None:
    return expiry(settings.public_file(file))


def _peer(settings: Settings, peer: Peer) -> list[CheckResult]:
    known = settings.callers() | {"this party itself": settings.identity().certificate}
    known |= {name: settings.peer(name, section).certificate for section, name in PEERS.items() if section in settings.values}
    shown = attempt(f"{peer.name}: is who it should be", partial(identity_shown, peer, known), ACCEPT)
    if not shown.ok:
        return [shown]
    with open_channel(settings.identity(), peer) as channel:
        reached = attempt(f"{peer.name}: knows us", partial(serving, channel, peer.name), GIVE)
        return [shown, reached, *(peer_state(channel, peer.name) if reached.ok else [])]
