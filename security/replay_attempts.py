"""What may happen once, asked of live parties again: each way to a second opening under one mask, tried over the RPCs.

We hold server B's and the edge's identities (and, to ask the dealer, server A's). An attempt counts as refused only where
the answer is one of the protocol's refusals; an answer that does not come, or comes for another reason, counts against us.
"""

import json
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc
import torch
from jaxtyping import Float64
from torch import Tensor

from client import acquisition, edge
from client.config import HospitalConfig, load_config
from client.model_file import Model
from client.model_owner import push_model
from client.origin import IDENTITY, Kind, Origin, SourceImage
from client.records import ObjectRecord
from darkroom.simulation import Simulation
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.transport import open_channel
from protocols.engines import SessionPlan, session_plan
from protocols.identifiers import BootId, Role, SessionId
from security.false_server_b import CALL_SECONDS, SIGMA_SHARE, EdgeCall, FalseServerB, denoise_request
from security.site_access import identity, kill, peer, restart

SIDE: Final = 48  # room for an impulse on each of 32 channels at half resolution (replay_algebra.Impulses)
LEVEL: Final = 0.1  # noise level that the network is told
REFUSALS: Final = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND)


def picture(phase: int) -> Float64[Tensor, "32 32"]:
    """A smooth image in [0, 1]; another for each phase."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return 0.5 + 0.3 * torch.sin(rows / 5 + phase).double() * torch.cos(columns / 4).double()


@dataclass(frozen=True)
class Attempt:
    """One repetition that was tried on live parties, and the answer."""

    what: str
    status: grpc.StatusCode | None
    details: str

    @property
    def refused(self) -> bool:
        return self.status in REFUSALS

    def __str__(self) -> str:
        return f"{self.what}: {self.status.name if self.status else 'no answer'} ({self.details})"


def _attempt(what: str, call: Callable[[], object]) -> Attempt:
    try:
        call()
    except grpc.RpcError as error:
        return Attempt(what, error.code(), error.details() or "")
    return Attempt(what, grpc.StatusCode.OK, "")


class LiveSite:
    """A running simulation with one model and one stored object."""

    def __init__(self, cluster: Simulation, model: Model, engine: str) -> None:
        self.cluster = cluster
        self.model = model
        self.engine = engine
        push_model(self.config, model)
        origin = Origin(kind=Kind.NPY, normalisation=IDENTITY, bits=64, name="replay", dataset=None)
        self.record: ObjectRecord = acquisition.store(self.config, SourceImage(picture(1), origin), sigma=LEVEL)

    @property
    def config(self) -> HospitalConfig:
        """The hospital's settings; a restarted server may have changed them."""
        return load_config(self.cluster.hospital_file)

    @property
    def plan(self) -> SessionPlan:
        """The openings of a session of this model."""
        return session_plan(self.engine, self.model.network, SIDE, SIDE)

    def denoise(self) -> str:
        """An honest session. Returns the push that it used."""
        return str(edge.denoise(self.config, self.record.object_id, model=self.model.name, engine=self.engine).push_id)

    def request(self, role: Role, session: SessionId, sigma_share: int = SIGMA_SHARE) -> pb.DenoiseRequest:
        """The edge's request."""
        name, engine = self.model.name, self.engine
        return denoise_request(self.record, role, session, name, sigma_share=sigma_share, engine=engine)

    @contextmanager
    def false_b(self) -> Generator[tuple[FalseServerB, EdgeCall, pb.PeerOrder]]:
        """A session of the real A with us in place of B, up to the order to evaluate, accepted; material not yet claimed."""
        session = SessionId.fresh()
        call = EdgeCall(self.cluster, self.request(Role.A, session))
        with FalseServerB(self.cluster, session, self.model.network, self.engine) as false_b:
            false_b.follow_masking()
            yield false_b, call, false_b.accept(pb.PeerOrder.KIND_EVALUATE)
        call.join()


def repeated_steps(site: LiveSite) -> tuple[list[Attempt], int]:
    """Openings sent again to A. Also the largest number of times that A itself sent one opening."""
    attempts, most = [], 0
    plan = site.plan
    for what, second, fill in (
        ("the first opening again with other words", 0, 1),
        ("the first opening again as it was", 0, 0),
        ("a later opening, too early", 2, 0),
    ):
        with site.false_b() as (false_b, call, order):
            false_b.claim(order, SIDE, SIDE)
            false_b.ready()
            false_b.opening(0, plan.opened_words(0))
            for label in (0, 1):  # A's own next opening shows that it has accepted ours
                false_b.receive_opening(label)
            false_b.opening(second, plan.opened_words(second), fill)
            false_b.drain()
            most = max(most, *false_b.pieces.values())
            call.join()
        attempts.append(Attempt(what, call.status, call.details))
    return attempts, most


def repeated_claims(site: LiveSite) -> list[Attempt]:
    """The dealer asked again, and for other runs of the servers."""
    attempts = []
    with site.false_b() as (false_b, _, order):
        for term in ("boot_a", "boot_b", "push_id"):
            changes = {term: str(BootId.fresh())}
            attempts.append(_attempt(f"material claimed under another {term}", partial(_claim, false_b, order, **changes)))
        false_b.claim(order, SIDE, SIDE)
        attempts.append(_attempt("B's half of the material claimed again", partial(_claim, false_b, order)))
        # A has claimed its half by the time it says that it is ready; we ask in its name as well
        digest = site.plan.digest
        terms = {key: getattr(order, key) for key in ("material_id", "push_id", "boot_a", "boot_b")}
        with suppress(StopIteration, grpc.RpcError):
            while next(false_b.incoming).WhichOneof("content") != "ready":
                pass
        with open_channel(identity(site.cluster, "server-a"), peer(site.cluster, "dealer")) as channel:
            stub, claim = rpc.DealerStub(channel), pb.ClaimMaterialRequest(plan_digest=digest, **terms)
            attempts.append(_attempt("A's half claimed again", lambda: list(stub.ClaimMaterial(claim, timeout=CALL_SECONDS))))
            push = pb.ClaimPushRequest(
                push_id=order.push_id,
                boot_a=order.boot_a,
                boot_b=order.boot_b,
                network_digest=site.model.network.digest,
            )
            attempts.append(_attempt("A's weight masks claimed again", lambda: stub.ClaimPush(push, timeout=CALL_SECONDS)))
        return attempts


def _claim(false_b: FalseServerB, order: pb.PeerOrder, **changes: str) -> None:
    false_b.claim(order, SIDE, SIDE, **changes)


def repeated_requests(site: LiveSite) -> list[Attempt]:
    """One session id again, with another payload (another share of the noise level), at A and at B."""
    attempts = []
    with site.false_b() as (false_b, _, _):
        again = false_b.session
        attempts.append(_attempt("server A asked with the session id of a session under way", partial(_ask, site, Role.A, again)))
    for role in Role:
        session = SessionId.fresh()
        _begin(site, role, session)
        attempts.append(
            _attempt(f"server {role.value} asked again, same session, other payload", partial(_ask, site, role, session))
        )
    return attempts


def _begin(site: LiveSite, role: Role, session: SessionId) -> None:
    """Ask one server and hang up as soon as it has taken the session."""
    with open_channel(identity(site.cluster, "edge"), peer(site.cluster, f"server-{role.value.lower()}")) as channel:
        call = rpc.ServerStub(channel).Denoise(site.request(role, session), timeout=CALL_SECONDS)
        next(call)
        call.cancel()


def _ask(site: LiveSite, role: Role, session: SessionId) -> None:
    """The edge's request with a share of the noise level that differs from the first."""
    name = f"server-{role.value.lower()}"
    with open_channel(identity(site.cluster, "edge"), peer(site.cluster, name)) as channel:
        request = site.request(role, session, SIGMA_SHARE + 1)
        list(rpc.ServerStub(channel).Denoise(request, timeout=CALL_SECONDS))


def after_a_crash(site: LiveSite, party: str) -> tuple[list[Attempt], bool]:
    """Kill -9 of one party, restart, and old things asked for again. Also whether the weights were masked anew."""
    before = site.denoise()
    survivor, session = (Role.B if party == "server-a" else Role.A), SessionId.fresh()
    _begin(site, survivor, session)
    with site.false_b() as (false_b, _, used):
        false_b.claim(used, SIDE, SIDE)
    with site.false_b() as (_, _, unclaimed):
        pass  # material that was opened, and whose half B never claimed
    kill(site.cluster, party)
    restart(site.cluster, party)
    after = site.denoise()
    with FalseServerB(site.cluster, SessionId.fresh(), site.model.network, site.engine) as false_b:
        renewed = {"server-a": {"boot_a": str(BootId.fresh())}, "server-b": {"boot_b": str(false_b.boot)}, "dealer": {}}[party]
        attempts = [
            _attempt(f"material used before {party}'s crash, under its old terms", partial(_claim, false_b, used)),
            _attempt(
                f"material opened before {party}'s crash and not yet claimed, {'for the new run' if renewed else 'as it was'}",
                partial(_claim, false_b, unclaimed, **renewed),
            ),
        ]
    what = f"the session from before {party}'s crash, asked of server {survivor.value}"
    attempts.append(_attempt(what, partial(_ask, site, survivor, session)))
    return attempts, before != after


def claims_by_log(site: LiveSite) -> Counter[tuple[str, str]]:
    """(material, role) of every half that the dealer gave out, by its own log."""
    claims: Counter[tuple[str, str]] = Counter()
    for line in (site.cluster.site.logs / "dealer.log").read_text().splitlines():
        with suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if entry.get("event") == "material claimed":
                claims[entry["material"], entry["role"]] += 1
    return claims
