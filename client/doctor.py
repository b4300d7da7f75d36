"""Is everything in place? Each check names what is wrong and what to do; nothing is changed. Run by any identity."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.both_servers import Connection, connect
from client.config import ClientSection, HospitalConfig, IdentitySection, read_identity
from client.files import replacing
from client.keys import read_noise_key, read_signing_key
from client.model_owner import list_models
from proto.status import calling
from proto.transport import Identity
from protocols.errors import AccessDenied, ConfigurationError, DarkroomError, PeerUnavailableError
from protocols.identifiers import Role

HEALTH_SECONDS: Final = 10.0  # a handshake over a bad line
_PROBE: Final = ".doctor"


@dataclass(frozen=True)
class CheckResult:
    """One check. Public: no secret is quoted."""

    name: str
    ok: bool
    problem: str = ""
    fix: str = ""


def check(config: HospitalConfig) -> list[CheckResult]:
    """Check files and modes, certificates, both servers under each identity, and the models. Raises nothing of ours."""
    results = [_try(f"server {role.value}: certificate", partial(config.peer, role)) for role in Role]
    sections = config.identities()
    if not sections:
        results.append(_try("identity", config.require_any))
    for section, owner in sections:
        results += _files(section, owner)
    if config.client is not None:
        results.append(_try("object records", partial(_probe_folder, config)))
    if all(result.ok for result in results):
        for section, owner in sections:
            results += _servers(config, read_identity(section, owner), owner)
    if all(result.ok for result in results):
        results.append(_try("models", partial(_models, config)))
    return results


def _files(section: IdentitySection, owner: str) -> list[CheckResult]:
    results = [_try(f"{owner}: certificate and private key", partial(read_identity, section, owner))]
    if isinstance(section, ClientSection):
        results.append(_try(f"{owner}: noise key", partial(read_noise_key, section.noise_key)))
        results.append(_try(f"{owner}: signing key", partial(read_signing_key, section.signing_key)))
    return results


def _probe_folder(config: HospitalConfig) -> None:
    folder = config.objects if config.objects.exists() else config.objects.parent
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}, for the object records, is not a folder")
    probe = folder / _PROBE
    with replacing(probe) as file:
        file.write(b"\n")
    probe.unlink(missing_ok=True)


def _servers(config: HospitalConfig, identity: Identity, owner: str) -> list[CheckResult]:
    with connect(config, identity) as connections:
        return [
            _try(f"{connection.name}: reachable as {owner}", partial(_health, connection)) for connection in connections.values()
        ]


def _health(connection: Connection) -> None:
    with calling(connection.name):
        stub = health_pb2_grpc.HealthStub(connection.channel)
        status = stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_SECONDS).status
    if status != health_pb2.HealthCheckResponse.SERVING:
        raise PeerUnavailableError(f"{connection.name} answers, but does not serve (health status {status})")


def _models(config: HospitalConfig) -> None:
    models = list_models(config)
    if not models:
        raise ConfigurationError("the servers hold no model: run `darkroom model push FILE`")
    single = [model.name for model in models if not model.complete]
    if single:
        raise ConfigurationError(f"one server alone holds {', '.join(single)}: push it again")


def _try(name: str, step: Callable[[], object]) -> CheckResult:
    try:
        step()
    except DarkroomError as error:
        return CheckResult(name, ok=False, problem=str(error), fix=_fix(error))
    return CheckResult(name, ok=True)


def _fix(error: DarkroomError) -> str:
    """What to do, where the message does not say it."""
    if isinstance(error, PeerUnavailableError):
        return "start the server, check its address in the configuration, and that its certificate is the one pinned here"
    if isinstance(error, AccessDenied):
        return "give the server's operator this identity's certificate"
    return ""
