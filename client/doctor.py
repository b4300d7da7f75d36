"""Is everything in place? Each check names what is wrong and what to do; nothing is changed. Run by any identity."""

import stat
from functools import partial
from typing import Final

from client.both_servers import connect
from client.config import ClientSection, HospitalConfig, IdentitySection, read_identity
from client.files import replacing
from client.keys import read_noise_key, read_signing_key
from client.model_owner import list_models
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
from proto.readiness import SERVER
from proto.transport import Identity
from protocols.errors import ConfigurationError
from protocols.identifiers import Role

_PROBE: Final = ".doctor"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_ACCEPT: Final = "take it again from the server's operator (`darkroom accept`)"
_IDENTITY: Final = "name a file that `darkroom provision` or `darkroom up` wrote, such as hospital.toml (--config)"
_KEY: Final = "put the file back from the hospital's backup; a new key does not open what was stored under the old one"


def check(config: HospitalConfig) -> list[CheckResult]:
    """Check files and modes, certificates, this machine, both servers under each identity, and the models.

    Raises nothing of ours.
    """
    results = [attempt(f"server {role.value}: certificate", partial(_pinned, config, role), _ACCEPT) for role in Role]
    sections = config.identities()
    if not sections:
        results.append(attempt("identity", config.require_any, _IDENTITY))
    for section, owner in sections:
        results += _files(section, owner)
    if config.client is not None:
        results.append(attempt("object records", partial(_probe_folder, config), f"make {config.objects.parent} writable for us"))
    results += machine_state(config.objects)
    if passed(results):
        shown = [_identity_shown(config, role) for role in Role]
        results += shown
        if passed(shown):
            for position, (section, owner) in enumerate(sections):
                results += _servers(config, read_identity(section, owner), owner, state=position == 0)
    if passed(results):
        results.append(attempt("models", partial(_models, config), "push it again (`darkroom model push FILE`)"))
    return results


def _pinned(config: HospitalConfig, role: Role) -> Concern | None:
    return expiry(config.peer(role).certificate)


def _files(section: IdentitySection, owner: str) -> list[CheckResult]:
    results = [attempt(f"{owner}: certificate and private key", partial(_own, section, owner), RENEW)]
    if isinstance(section, ClientSection):
        results.append(attempt(f"{owner}: noise key", partial(read_noise_key, section.noise_key), _KEY))
        results.append(attempt(f"{owner}: signing key", partial(read_signing_key, section.signing_key), _KEY))
    return results


def _own(section: IdentitySection, owner: str) -> Concern | None:
    return expiry(read_identity(section, owner).certificate)


def _probe_folder(config: HospitalConfig) -> Concern | None:
    folder = config.objects if config.objects.exists() else config.objects.parent
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}, for the object records, is not a folder")
    probe = folder / _PROBE
    with replacing(probe) as file:
        file.write(b"\n")
    probe.unlink(missing_ok=True)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if folder == config.objects and mode & _OTHERS:
        return Concern(f"{folder}, with the keys of all objects, has mode {mode:04o}", f"chmod 700 {folder}")
    return None


def _identity_shown(config: HospitalConfig, role: Role) -> CheckResult:
    """Whether the server at the address is the one that is pinned; if not, whose certificate it shows."""
    known = {f"server {other.value}": config.peer(other).certificate for other in Role}
    known |= {f"our own {owner}": read_identity(section, owner).certificate for section, owner in config.identities()}
    return attempt(f"server {role.value}: is who it should be", partial(identity_shown, config.peer(role), known), _ACCEPT)


def _servers(config: HospitalConfig, identity: Identity, owner: str, *, state: bool) -> list[CheckResult]:
    """Reach both servers under one identity. state: ask for version, clock, memory and disk too."""
    results = []
    with connect(config, identity) as connections:
        for connection in connections.values():
            name = f"{connection.name}: reachable as {owner}"
            results.append(attempt(name, partial(serving, connection.channel, connection.place, SERVER), GIVE))
            if state and results[-1].ok:
                results += peer_state(connection.channel, connection.name)
    return results


def _models(config: HospitalConfig) -> Concern | None:
    models = list_models(config)
    if not models:
        raise ConfigurationError("the servers hold no model: run `darkroom model push FILE`")
    single = [model.name for model in models if not model.complete]
    if single:
        raise ConfigurationError(f"one server alone holds {', '.join(single)}: push it again")
    apart = [model.name for model in models if model.push_id is None and None not in model.push_ids.values()]
    if apart:
        raise ConfigurationError(f"the push ids of {', '.join(apart)} differ between the servers: push it again")
    waiting = [model.name for model in models if model.push_id is None]
    if waiting:
        return Concern(
            f"the weights of {', '.join(waiting)} are not masked since a restart",
            "nothing: the next evaluation masks them, and takes longer for it",
        )
    return None
