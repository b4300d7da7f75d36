"""One session at one server: handshake, material, worker, openings, result. A leads, B follows.

The same request object drives both roles; what differs is who orders. Any failure ends the session on both sides: the
channel is closed, the worker is killed, and the material is never named again.
"""

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from proto import darkroom_pb2 as pb
from protocols.engines import SessionPlan, session_plan
from protocols.errors import (
    BadInputError,
    DarkroomError,
    MaterialReusedError,
    NotFoundError,
    RemoteProtocolError,
)
from protocols.identifiers import BootId, MaterialId, PushId, Role
from protocols.layer_costs import image_tiles
from protocols.network import Network
from protocols.prg import fresh_key
from protocols.tiles import Tile
from protocols.unpicklable import Unpicklable
from server.abort import Abort
from server.dealer_client import Batch, Boots, DealerClient
from server.models import MaskedModel, ModelRegistry, PushedModel, WeightMasking
from server.order import OrderTerms, check_accept, check_order, make_order, order_digest, shared_key
from server.outcome import Begin, Outcome, assembled
from server.peer_channel import PeerChannel
from server.relays import receive_opening, send_opening
from server.tile_evaluation import TileEvaluation
from server.turns import Place
from server.worker_pool import WorkerPool

MAX_MATERIAL_BYTES: Final = 6 << 30  # corrections that a worker of B holds; of an image that cannot be cut into tiles
MAX_BYTES_AHEAD: Final = 2 << 30  # of a session that shares its server with another one's worker: what is not cut may have more


@dataclass(frozen=True, eq=False)
class EvaluationRequest(Unpicklable):
    """What the edge asked of this server, checked. The share of the object is read when the session's turn has begun."""

    session_id: str
    object_id: str
    model: str
    stored: pb.StoreHeader = field(repr=False)
    image_share: Callable[[], bytes] = field(repr=False)  # A: seed; B: ring words
    noise_key: bytes = field(repr=False)
    sigma_share: int = field(repr=False)
    engine: str  # as the edge asked; "" leaves the choice to the network
    require_window: Callable[[], object] = field(repr=False)  # raises AccessDenied: the object may not be opened any more


@dataclass(frozen=True, eq=False)
class _Work(Unpicklable):
    """What stays the same over the tiles of a session and their repetitions."""

    request: EvaluationRequest
    model: PushedModel
    image_share: bytes = field(repr=False)
    channel: PeerChannel
    abort: Abort
    place: Place
    alone: bool  # no other session is prepared beside this one


@dataclass(frozen=True, eq=False)
class _Agreed(Unpicklable):
    """What both servers have agreed on for one evaluation, with this server's half."""

    masked: MaskedModel
    plan: SessionPlan
    tile: Tile
    number: int
    material: MaterialId
    peer_key: bytes = field(repr=False)


class Evaluator:
    """Everything that outlives a session at one server: boot id, models, workers, used material.

    One evaluation at a time, and one session that is prepared meanwhile (`server.turns`): whoever calls `lead` may prepare, and
    `follow` lines up for that when A's order comes.
    """

    def __init__(self, role: Role, models: ModelRegistry, dealer: DealerClient, workers: WorkerPool) -> None:
        self.role = role
        self.boot_id = BootId.fresh()
        self._models = models
        self._dealer = dealer
        self._workers = workers
        self._used: set[MaterialId | PushId] = set()
        self._used_lock = threading.Lock()

    def _use(self, identifier: MaterialId | PushId) -> None:
        """Mark material as used by this run of the server. Raises MaterialReusedError on the second time."""
        with self._used_lock:
            if identifier in self._used:
                raise MaterialReusedError(f"{type(identifier).__name__} {identifier} was used in an earlier session")
            self._used.add(identifier)

    # --- masking the weights of a push ---

    def lead_masking(self, channel: PeerChannel, session_id: str, model: PushedModel, boots: Boots) -> MaskedModel:
        """Order B to open delta = w - b with us; the caller registers the result. Run by server A."""
        push = self._dealer.open_push(model.network, boots)
        terms = self._mask_terms(session_id, model, boots)
        order = make_order(terms, push_id=str(push), material_id="", contribution=fresh_key())
        channel.send(pb.PeerMessage(order=order))
        check_accept(channel.expect("accept").accept, order)
        return self._mask(channel, model, push, boots)

    def follow_masking(self, channel: PeerChannel, order: pb.PeerOrder, session_id: str, model: PushedModel) -> MaskedModel:
        """Do as A orders, if it is what we know; the caller registers the result. Run by server B."""
        boots = Boots(order.boot_a, str(self.boot_id))
        check_order(order, self._mask_terms(session_id, model, boots))
        self._accept(channel, order)
        return self._mask(channel, model, PushId(order.push_id), boots)

    def _mask_terms(self, session_id: str, model: PushedModel, boots: Boots) -> OrderTerms:
        return OrderTerms(
            kind=pb.PeerOrder.KIND_MASK,
            session_id=session_id,
            model=model.name,
            upload_id=model.upload_id,
            object_id="",
            plan_digest=model.network.digest,
            boot_a=boots.a,
            boot_b=boots.b,
        )

    def _mask(self, channel: PeerChannel, model: PushedModel, push: PushId, boots: Boots) -> MaskedModel:
        self._use(push)
        seed = self._dealer.claim_push(push, model.network, boots)
        masking = WeightMasking(model, push, boots, seed)
        own = memoryview(masking.opening())
        sender = threading.Thread(target=send_opening, args=(channel, own), daemon=True)
        sender.start()
        received = receive_opening(channel, label=0, total=len(own))
        sender.join()
        return masking.accept(received)

    # --- evaluating an image ---

    def lead(
        self, channel: PeerChannel, boot_b: str, request: EvaluationRequest, abort: Abort, place: Place
    ) -> Generator[str, None, Outcome]:
        """Run by server A, when the session may prepare; yields stages for the edge."""
        boots = Boots(str(self.boot_id), str(BootId(boot_b)))
        work, tiles = yield from self._work(request, channel, abort, place)

        def lead_tile(number: int, ahead: bool) -> Generator[str, None, TileEvaluation]:
            return self._lead_tile(work, boots, tiles[number], number, ahead)

        return (yield from self._assembled(work, tiles, lead_tile))

    def _assembled(self, work: _Work, tiles: list[Tile], begin: Begin) -> Generator[str, None, Outcome]:
        """Evaluate, and have a worker ready for the next session, unless that has one already. Yields stages."""
        outcome = yield from assembled(tiles, begin, partial(_wait, work))
        self._workers.keep_spare(outcome.memory_bytes)
        return outcome

    def _work(
        self, request: EvaluationRequest, channel: PeerChannel, abort: Abort, place: Place
    ) -> Generator[str, None, tuple[_Work, list[Tile]]]:
        """Read what the session needs, not before it may prepare: what waits in line holds no shares. Yields stages."""
        network = Network.from_json(self._models.description(request.model).network)
        tiles = self._tiles(network, request)
        plan = session_plan(request.engine, network, tiles[0].height, tiles[0].width)
        # Tiles overlap among themselves: with another session's there would be three workers.
        alone = len(tiles) > 1 or plan.dealt_bytes > MAX_BYTES_AHEAD
        if alone:
            yield from place.alone()
        return _Work(request, self._models.load(request.model), request.image_share(), channel, abort, place, alone), tiles

    def _lead_tile(self, work: _Work, boots: Boots, tile: Tile, number: int, ahead: bool) -> Generator[str, None, TileEvaluation]:
        """Begin an evaluation on fresh material."""
        channel, model = work.channel, work.model
        plan = session_plan(work.request.engine, model.network, tile.height, tile.width)
        opened = self._opened(model, plan, boots)
        if opened is None:
            yield from work.place.alone()
            opened = self._opened(model, plan, boots)  # the session before may have masked it meanwhile
        masking = opened is None
        if opened is None:
            yield "masking the model"
            self._models.forget(model.name)
            fresh = self.lead_masking(channel, work.request.session_id, model, boots)
            opened = fresh, self._dealer.open_material(fresh.push_id, plan, boots)
        masked, material = opened
        terms = self._evaluation_terms(work, plan, boots, number)
        order = make_order(terms, push_id=str(masked.push_id), material_id=str(material), contribution=fresh_key())
        try:
            channel.send(pb.PeerMessage(order=order))
            accept = channel.expect("accept").accept
            check_accept(accept, order)
        except DarkroomError:
            # B may lack this push: a link that broke during masking leaves one side with it. The next session masks anew.
            self._models.forget(model.name)
            raise
        if masking:
            self._models.register(model.name, masked)  # B holds it, so a session that is prepared meanwhile may name it
        agreed = _Agreed(masked, plan, tile, number, material, shared_key(order, accept))
        return (yield from self._begin(work, agreed, ahead))

    def _opened(self, model: PushedModel, plan: SessionPlan, boots: Boots) -> tuple[MaskedModel, MaterialId] | None:
        """Fresh material under the masks in force; None where a server or the dealer has restarted since the push."""
        masked = self._models.masked(model.name, model.upload_id, boots)
        if masked is None:
            return None
        try:
            return masked, self._dealer.open_material(masked.push_id, plan, boots)
        except NotFoundError:
            return None

    def follow(
        self, channel: PeerChannel, request: EvaluationRequest, abort: Abort, place: Place
    ) -> Generator[str, None, Outcome]:
        """Run by server B; yields stages for the edge."""
        yield "waiting for server A"
        first = iter([channel.expect("order").order])
        yield from place.prepare()
        work, tiles = yield from self._work(request, channel, abort, place)

        def follow_tile(number: int, ahead: bool) -> Generator[str, None, TileEvaluation]:
            order = next(first, None) or channel.expect("order").order
            return self._follow_tile(work, order, tiles[number], number, ahead)

        return (yield from self._assembled(work, tiles, follow_tile))

    def _follow_tile(
        self, work: _Work, order: pb.PeerOrder, tile: Tile, number: int, ahead: bool
    ) -> Generator[str, None, TileEvaluation]:
        """Begin an evaluation, as A orders."""
        channel, model = work.channel, work.model
        if order.kind == pb.PeerOrder.KIND_MASK:
            yield from work.place.alone()
            self._models.register(model.name, self.follow_masking(channel, order, work.request.session_id, model))
            order = channel.expect("order").order
        boots = Boots(order.boot_a, str(self.boot_id))
        plan = session_plan(work.request.engine, model.network, tile.height, tile.width)
        check_order(order, self._evaluation_terms(work, plan, boots, number))
        masked = self._models.masked(model.name, model.upload_id, boots)
        if masked is None or str(masked.push_id) != order.push_id:
            raise RemoteProtocolError(f"server A names push {order.push_id[:40]!r}, which this server does not hold")
        accept = self._accept(channel, order)
        agreed = _Agreed(masked, plan, tile, number, MaterialId(order.material_id), shared_key(order, accept))
        return (yield from self._begin(work, agreed, ahead))

    def _tiles(self, network: Network, request: EvaluationRequest) -> list[Tile]:
        """The image as one tile, or cut: public, the same at both servers. Raises BadInputError: too large."""
        size = request.stored.size
        tiles = image_tiles(request.engine, network, size.height, size.width)
        plan = session_plan(request.engine, network, tiles[0].height, tiles[0].width)
        if plan.dealt_bytes > MAX_MATERIAL_BYTES:
            raise BadInputError(
                f"a {plan.height}x{plan.width} image needs {plan.dealt_bytes / 2**30:.1f} GiB of material with this model; "
                f"at most {MAX_MATERIAL_BYTES / 2**30:.0f} GiB are supported: cut the image into tiles"
            )
        return tiles

    def _evaluation_terms(self, work: _Work, plan: SessionPlan, boots: Boots, number: int) -> OrderTerms:
        return OrderTerms(
            kind=pb.PeerOrder.KIND_EVALUATE,
            session_id=work.request.session_id,
            model=work.model.name,
            upload_id=work.model.upload_id,
            object_id=work.request.object_id,
            plan_digest=plan.digest,
            boot_a=boots.a,
            boot_b=boots.b,
            tile=number,
        )

    def _accept(self, channel: PeerChannel, order: pb.PeerOrder) -> pb.PeerAccept:
        accept = pb.PeerAccept(order_digest=order_digest(order), contribution=fresh_key())
        channel.send(pb.PeerMessage(accept=accept))
        return accept

    def _begin(self, work: _Work, agreed: _Agreed, ahead: bool) -> Generator[str, None, TileEvaluation]:
        """The evaluation of a tile, on material that nothing was evaluated on. ahead: another one is under way."""
        request, model = work.request, work.model
        masked, plan, tile = agreed.masked, agreed.plan, agreed.tile
        self._use(agreed.material)
        if not ahead:
            yield "dealing"
        job = pb.WorkerJob(
            role=self.role.value,
            network=model.network.to_json(),
            size=request.stored.size,
            material_id=str(agreed.material),
            push_seed=masked.push_seed,
            deltas=masked.deltas,
            bias_shares=masked.bias_shares,
            packing=request.stored.packing,
            packing_sigma=request.stored.packing_sigma,
            image_share=work.image_share,
            noise_key=request.noise_key,
            sigma_share=request.sigma_share,
            peer_key=agreed.peer_key,
            engine=plan.engine,
            window=pb.Window(top=tile.top, left=tile.left, size=pb.Size(height=tile.height, width=tile.width)),
        )

        def claim(begun: Callable[[Callable[[], object]], object]) -> Batch:
            return self._dealer.claim_material(agreed.material, masked.push_id, plan, masked.boots, begun=begun)

        shape = model.network.output_shape(plan.height, plan.width)
        return TileEvaluation(
            job, plan, masked.push_id, shape, claim=claim, channel=work.channel, abort=work.abort, workers=self._workers
        )


def _wait(work: _Work) -> Generator[str]:
    """Until the session before is over, which the material did not wait for. Raises AccessDenied: the window has closed."""
    if not work.alone and (yield from work.place.evaluate()):
        work.request.require_window()
