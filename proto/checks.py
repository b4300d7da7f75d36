"""Checks: name, problem, how to fix. What the hospital's doctor and the check of a server or dealer have in common.

A check fails, or passes with a warning, which never fails the whole. Nothing is changed, and no secret is quoted.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proto.addresses import listed
from proto.description import DESCRIBE_SECONDS, Description, describe, free_disk, free_memory
from proto.exit_codes import ExitCode
from proto.fingerprints import readable
from proto.readiness import ALIVE
from proto.shown_certificate import shown_certificate
from proto.status import calling
from proto.transport import Peer, certificate_name, fingerprint
from proto.version import VERSION, WIRE_VERSION
from protocols.errors import AccessDenied, ConfigurationError, DarkroomError, PeerUnavailableError

EXPIRY_WARNING: Final = timedelta(days=30)  # time to make, compare and exchange new ones between three operators
CLOCK_WARNING: Final = 60.0  # seconds; a grant is valid from a minute before it was made: beyond that a fresh one is refused
CLOCK_FAILURE: Final = 300.0  # seconds; new certificates are valid from five minutes before they were made
LOW_MEMORY: Final = 2 << 30  # bytes; a party's processes take up to 1.7 GiB for a 512x512 image (docs/benchmarks.md)
LOW_DISK: Final = 1 << 30  # bytes; 500 images of 512x512 at a server
GIVE: Final = "give the party's operator this identity's certificate (`darkroom fingerprints` names the file)"
_SAME_VERSION: Final = "install the same version everywhere"
_MORE_MEMORY: Final = f"leave {LOW_MEMORY >> 30} GiB for a 512x512 image"
_MORE_DISK: Final = "delete objects that are done with, or enlarge the disk"
RENEW: Final = "make a new one (`darkroom provision --renew`), and give it to its peers (`darkroom accept --replace`)"


@dataclass(frozen=True)
class CheckResult:
    """One check. Public: no secret is quoted."""

    name: str
    ok: bool
    problem: str = ""
    fix: str = ""
    warning: bool = False  # passed, with a problem
    unreachable: bool = False  # failed because a peer is out of reach: nothing here need be wrong
    denied: bool = False  # failed because a peer refused this identity

    def lines(self) -> list[str]:
        """For a terminal."""
        mark = "FAIL" if not self.ok else "warn" if self.warning else "ok  "
        return [f"{mark}  {self.name}", *(f"      {line}" for line in (self.problem, self.fix) if line)]


@dataclass(frozen=True)
class Concern:
    """What a passed check warns of."""

    problem: str
    fix: str


def attempt(name: str, step: Callable[[], object], fix: str) -> CheckResult:
    """Run one check. step: raises DarkroomError where it fails, returns a Concern where it warns.

    fix: what to do where it fails, unless the kind of error says more.
    """
    try:
        found = step()
    except DarkroomError as error:
        return CheckResult(
            name,
            ok=False,
            problem=str(error),
            fix=_fix(error) or fix,
            unreachable=isinstance(error, PeerUnavailableError),
            denied=isinstance(error, AccessDenied),
        )
    if isinstance(found, Concern):
        return CheckResult(name, ok=True, problem=found.problem, fix=found.fix, warning=True)
    return CheckResult(name, ok=True)


def _fix(error: DarkroomError) -> str:
    if isinstance(error, PeerUnavailableError):
        return (
            "start the party there, check its address in the configuration and the firewall between, and that it has this"
            " identity's certificate"
        )
    if isinstance(error, AccessDenied):
        return GIVE
    return ""


def expiry(certificate_pem: bytes, *, now: datetime | None = None) -> Concern | None:
    """Warn of a certificate that ends soon. Raises ConfigurationError: it is none, has ended, or has not begun."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise ConfigurationError(f"not a PEM certificate: {error}") from error
    now = datetime.now(UTC) if now is None else now
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise ConfigurationError(f"the certificate expired on {last:%Y-%m-%d %H:%M} UTC")
    if now < first:
        raise ConfigurationError(f"the certificate is valid from {first:%Y-%m-%d %H:%M} UTC on: check this machine's clock")
    if last - now < EXPIRY_WARNING:
        return Concern(f"the certificate expires in {(last - now).days} days, on {last:%Y-%m-%d}", RENEW)
    return None


def identity_shown(peer: Peer, known: Mapping[str, bytes]) -> Concern | None:
    """Compare what is shown at each of the peer's addresses with the pin. known: other certificates (PEM) that can be named.

    Warns where some addresses are out of reach. Raises PeerUnavailableError: all are. ConfigurationError: somebody else answers
    at one, and who.
    """
    addresses, missed = listed(peer.address), []
    for address in addresses:
        try:
            shown = shown_certificate(peer.name, address)
        except PeerUnavailableError as error:
            missed.append(str(error))
        else:
            _require_pinned(peer, address, shown, known)
    if not missed:
        return None
    if len(missed) == len(addresses):
        raise PeerUnavailableError("; ".join(missed))
    return Concern("; ".join(missed), "nothing, if another of its addresses is meant to do; calls take the next one")


def _require_pinned(peer: Peer, address: str, shown: bytes, known: Mapping[str, bytes]) -> None:
    if fingerprint(shown) == fingerprint(peer.certificate):
        return
    owner = next((name for name, pem in known.items() if fingerprint(pem) == fingerprint(shown)), None)
    whose = f"that of {owner}" if owner else f"unknown here (it calls itself {_name(shown)!r})"
    raise ConfigurationError(
        f"{address} shows a certificate that is {whose}, not {peer.name}'s:\n"
        f"      shown   {readable(fingerprint(shown))}\n      pinned  {readable(fingerprint(peer.certificate))}"
    )


def _name(certificate_pem: bytes) -> str:
    try:
        return certificate_name(certificate_pem)[:80]
    except ConfigurationError:
        return "nothing"


def serving(channel: grpc.Channel, name: str, service: str = ALIVE) -> None:
    """Ask for health: it answers us, so it knows our certificate. service: alive, or ready (`proto.readiness`).

    Raises PeerUnavailableError, AccessDenied.
    """
    with calling(name, "for its health"):
        stub = health_pb2_grpc.HealthStub(channel)
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DESCRIBE_SECONDS).status
    if status != health_pb2.HealthCheckResponse.SERVING:
        raise PeerUnavailableError(
            f"{name} answers, but is not ready: it is stopping, or cannot reach a peer of its own; its log says which"
        )


def peer_state(channel: grpc.Channel, name: str) -> list[CheckResult]:
    """Version, clock, free memory and disk of a party that serves us."""
    found: list[Description] = []
    asked = attempt(f"{name}: describes itself", lambda: found.append(describe(channel, name)), "update Darkroom there, or here")
    if not found:
        return [asked]
    (state,) = found
    rows = [
        attempt(f"{name}: version", partial(_version, name, state), _SAME_VERSION),
        attempt(f"{name}: clock", partial(_clock, name, state), "set the clock there and here (NTP)"),
        attempt(f"{name}: free memory", partial(_memory, name, state.free_memory_bytes), _MORE_MEMORY),
    ]
    if state.free_disk_bytes is not None:
        rows.append(attempt(f"{name}: free disk", partial(_disk, name, state.free_disk_bytes), _MORE_DISK))
    return rows


def machine_state(folder: Path) -> list[CheckResult]:
    """Free memory here, and free disk where a folder is."""
    return [
        attempt("this machine: free memory", lambda: _memory("this machine", free_memory()), _MORE_MEMORY),
        attempt(
            "this machine: free disk",
            lambda: _disk(f"{folder}", _free_disk(folder)),
            f"let the user who runs this look into {folder}, and check as that user",
        ),
    ]


def passed(results: Iterable[CheckResult]) -> bool:
    """Whether every check passed; warnings do."""
    return all(result.ok for result in results)


def exit_code(results: Iterable[CheckResult]) -> ExitCode:
    """0 where every check passed; 6 where peers refused this identity, and nothing else; 5 where peers alone are the matter.

    Else 4: something here must be put right.
    """
    failed = [result for result in results if not result.ok]
    if not failed:
        return ExitCode.OK
    if all(result.denied for result in failed):
        return ExitCode.ACCESS
    if all(result.denied or result.unreachable for result in failed):
        return ExitCode.PEER
    return ExitCode.CONFIGURATION


def _version(name: str, state: Description) -> Concern | None:
    theirs, ours = f"{state.version} (wire {state.wire_version})", f"{VERSION} (wire {WIRE_VERSION})"
    if state.wire_version != WIRE_VERSION:
        raise ConfigurationError(f"{name} runs Darkroom {theirs}, this is {ours}")
    if state.version != VERSION:
        return Concern(f"{name} runs Darkroom {theirs}, this is {ours}", _SAME_VERSION)
    return None


def _clock(name: str, state: Description) -> Concern | None:
    apart = abs(state.clock_ahead_seconds) - state.clock_uncertainty_seconds  # what is certain
    if apart <= CLOCK_WARNING:
        return None
    side = "ahead of" if state.clock_ahead_seconds > 0 else "behind"
    text = f"{name}'s clock is {apart:.0f} s {side} this machine's: access windows open and close by it"
    if apart > CLOCK_FAILURE:
        raise ConfigurationError(text)
    return Concern(text, "set the clock there and here (NTP)")


def _memory(name: str, free: int) -> Concern | None:
    if free >= LOW_MEMORY:
        return None
    return Concern(f"{name} has {free / 2**30:.1f} GiB of free memory", _MORE_MEMORY)


def _free_disk(folder: Path) -> int:
    try:
        return free_disk(folder)
    except OSError as error:
        raise ConfigurationError(f"cannot look at {folder}: {error.strerror}") from error


def _disk(name: str, free: int) -> Concern | None:
    if free >= LOW_DISK:
        return None
    return Concern(f"{name} has {free / 2**30:.2f} GiB of free disk", _MORE_DISK)
