"""The gRPC services of a server: `Server` for hospital and model owner, `PeerLink` (at A) for server B."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Final

import grpc
import structlog

from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.admission import Admission
from proto.calls import CallRecord, answering, when_cancelled
from proto.conversion import packing_from_wire
from proto.peak_memory import peak_memory_bytes
from proto.readiness import SERVER, require_alive
from proto.transport import CONNECT_SECONDS, Callers, chunks, open_channel, wait_for_reconnection
from protocols.errors import (
    BadInputError,
    ConfigurationError,
    PeerUnavailableError,
    RemoteProtocolError,
    SessionBrokenError,
)
from protocols.identifiers import ObjectId, Role, SessionId
from protocols.network import MIN_SIDE
from protocols.packing import PackingMode
from protocols.prg import KEY_BYTES
from protocols.ring import WORD_BYTES
from server.abort import Abort
from server.config import ServerConfig
from server.dealer_client import Boots, DealerClient
from server.evaluation import EvaluationRequest, Evaluator
from server.grants import verify_grant
from server.limits import call_limits, queue_of
from server.metrics import ServerMetrics
from server.models import MaskedModel, ModelRegistry, PushedModel
from server.outcome import Outcome
from server.peer_channel import MeetingPoint, PeerChannel
from server.queued_image import QueuedImage
from server.session_log import public_fields, rounded
from server.share_store import ShareStore
from server.turns import Place
from server.worker_pool import WorkerPool

MAX_PIXELS: Final = 1 << 26  # 0.5 GiB of share; larger images are not radiographs
REMEMBERED_SESSIONS: Final = 1 << 16  # a repeated id is an edge's mistake; what must never repeat is the material
SESSION_SECONDS: Final = 1800.0
UNCLAIMED_SECONDS: Final = 60.0  # the edge calls both servers at once; a stream that A never asks for is sent away
UPLOAD_SECONDS: Final = 300.0  # A has its seed at once; B joins when its words have arrived

log = structlog.get_logger("server")


class ServerService(rpc.ServerServicer, rpc.PeerLinkServicer):
    """One server, in role A or B."""

    def __init__(self, config: ServerConfig, callers: Callers, workers: WorkerPool) -> None:
        self.health_name = SERVER
        self._config = config
        self._role = config.role
        self._callers = callers
        self._objects = ShareStore(config.store / "objects")
        self._models = ModelRegistry(ShareStore(config.store / "models"), config.role)
        channel = open_channel(config.identity, config.dealer)
        self._peers = [(channel, config.dealer.name)]
        dealer = DealerClient(channel, config.dealer)
        self._workers = workers
        self._evaluator = Evaluator(config.role, self._models, dealer, workers)
        self._meeting = MeetingPoint()
        self._sessions: OrderedDict[SessionId, None] = OrderedDict()
        self._lock = threading.Lock()
        name = f"server {config.role.value}"
        self._turns = queue_of(name, config)
        self._admission = Admission(name, call_limits(config.waiting))
        self.metrics = ServerMetrics(config.role, self._turns, self._objects)
        workers.on_restart = self._restarted
        self._leader = open_channel(config.identity, config.leader) if config.leader else None
        self._lead_stub = rpc.PeerLinkStub(self._leader) if self._leader else None
        if self._leader is not None and config.leader is not None:
            self._peers.append((self._leader, config.leader.name))

    # --- readiness and the end ---

    def require_ready(self) -> None:
        """Raises PeerUnavailableError: a peer that this server calls does not answer, or there is no worker."""
        self._workers.require_warm()
        for channel, name in self._peers:
            require_alive(channel, name)

    def drain(self) -> None:
        """Begin nothing more: who is evaluated or prepared ends as usual, who waits in line is sent away with nothing begun."""
        self._admission.drain()
        self._turns.drain()
        self._meeting.drain()

    def wait_idle(self, seconds: float) -> bool:
        """Wait for the last call under way to end; whether it has."""
        return self._admission.wait_idle(seconds)

    def _restarted(self) -> None:
        self.metrics.worker_restarts.inc()
        log.warning("worker restarted")

    # --- images ---

    def Store(self, requests: Iterator[pb.StoreRequest], context: grpc.ServicerContext) -> pb.StoreReply:  # noqa: N802
        """Run by the client."""
        started = monotonic()
        with answering(context, "Store", self.metrics) as call, self._admission.place(self._callers.require(context, "client")):
            header = next(requests, pb.StoreRequest()).header
            object_id = ObjectId(header.object_id)
            call.note(object=str(object_id))
            expected = self._check_store(header)
            words = _chunks_only(requests)
            self._objects.write(str(object_id), header.SerializeToString(), words, expected, replace=False)
            if not context.is_active():  # the client has taken it back before it was whole, and will not ask again
                self._objects.delete(str(object_id))
                raise SessionBrokenError(f"the client left while {object_id} was stored; it is deleted")
            size = {"height": header.size.height, "width": header.size.width, "bytes": expected}
            log.info("stored", object=str(object_id), seconds=rounded(monotonic() - started), **size)
        return pb.StoreReply()

    def _check_store(self, header: pb.StoreHeader) -> int:
        """Bytes that must follow. Raises BadInputError, RemoteProtocolError."""
        height, width = header.size.height, header.size.width
        if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
            raise BadInputError(f"{height}x{width} is out of range: sides of at least {MIN_SIDE}, at most {MAX_PIXELS} pixels")
        packing_from_wire(header.packing)
        if len(header.seed) != (KEY_BYTES if self._role is Role.A else 0):
            raise RemoteProtocolError("server A takes a seed of 32 bytes, server B words")
        return 0 if self._role is Role.A else height * width * WORD_BYTES

    def Delete(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> pb.DeleteReply:  # noqa: N802
        """Run by the client."""
        with answering(context, "Delete", self.metrics) as call:
            self._callers.require(context, "client")
            call.note_id("object", request.object_id)
            self._objects.delete(str(ObjectId(request.object_id)))
            log.info("deleted", object=request.object_id)
        return pb.DeleteReply()

    def Denoise(  # noqa: N802
        self, request: pb.DenoiseRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DenoiseReply]:
        """Run by the edge."""
        stop = Abort()
        when_cancelled(context, stop)
        with answering(context, "Denoise", self.metrics, cancelled=lambda: stop.cancelled) as call:
            caller = self._callers.require(context, "edge")
            call.note_id("session", request.session_id)
            with self._admission.place(caller), self._turns.enter(stop.interrupt) as place:
                stop.last(place.leave)
                self._begin_session(request.session_id)
                task, image = self._checked(request, caller)
                call.note(object=task.object_id)
                log.info("session begun", waiting=self._turns.waiting, **public_fields(task))
                run = self._lead(task, stop, place) if self._role is Role.A else self._follow(task, stop, place)
                outcome = yield from self._measured(run, call)
                place.leave(done=True)  # the next begins while the result is on its way
                yield pb.DenoiseReply(header=self._result_header(task, outcome))
                for chunk in chunks(outcome.share):
                    yield pb.DenoiseReply(chunk=chunk)
                if task.stored.packing == pb.PACKING_BLIND and self._role is Role.B:
                    for chunk in chunks(image.words()):
                        yield pb.DenoiseReply(packed_chunk=chunk)

    def _checked(self, request: pb.DenoiseRequest, caller: str) -> tuple[EvaluationRequest, QueuedImage]:
        """Everything that can be refused before a peer is troubled."""
        object_id = ObjectId(request.object_id)
        verify_grant(request.grant, self._config.grant_key, object_id=object_id, caller=caller)
        image = QueuedImage(self._objects, object_id)
        blind = packing_from_wire(image.header.packing) is PackingMode.BLIND
        if len(request.noise_key) != (0 if blind else KEY_BYTES):
            raise RemoteProtocolError("blind objects are opened without a noise key, others with 32 bytes")

        def require_window() -> None:
            verify_grant(request.grant, self._config.grant_key, object_id=object_id, caller=caller)

        def share_in_window() -> bytes:
            """The share when the turn has begun, if the window is still open then."""
            require_window()
            return image.share()

        task = EvaluationRequest(
            session_id=str(SessionId(request.session_id)),
            object_id=str(object_id),
            model=request.model,
            stored=image.header,
            image_share=share_in_window,
            noise_key=request.noise_key,
            sigma_share=request.sigma_share,
            engine=request.engine,
            require_window=require_window,
        )
        self._models.description(request.model)
        return task, image

    def _lead(self, task: EvaluationRequest, stop: Abort, place: Place) -> Generator[str, None, Outcome]:
        yield "waiting for server B"
        channel = self._met(task.session_id, CONNECT_SECONDS, stop, place)
        try:
            yield from place.prepare()
            return (yield from self._evaluator.lead(channel, channel.boot, task, stop, place))
        finally:
            stop.release()
            channel.close()

    def _follow(self, task: EvaluationRequest, stop: Abort, place: Place) -> Generator[str, None, Outcome]:
        channel = self._dial(task.session_id)
        stop.watch_channel(channel)
        try:
            outcome = yield from self._evaluator.follow(channel, task, stop, place)
            channel.finish()
            return outcome
        except PeerUnavailableError:
            place.require()  # the link was closed because this server stops: that is what the edge is told
            raise
        finally:
            stop.release()
            channel.close()

    def _met(self, session_id: str, seconds: float, stop: Abort, place: Place) -> PeerChannel:
        """B's stream of this session, watched. Run by server A. Raises PeerUnavailableError."""
        stop.also(self._meeting.wake)
        try:
            channel = self._meeting.take(SessionId(session_id), seconds, lambda: stop.aborted)
        except PeerUnavailableError:
            place.require()
            raise
        stop.watch_channel(channel)
        return channel

    def _measured(self, stages: Generator[str, None, Outcome], call: CallRecord) -> Generator[pb.DenoiseReply, None, Outcome]:
        """Pass stages on as messages; log each, count and log the outcome, and return it."""
        admitted = last = monotonic()
        waited, waiting, begun = 0.0, True, False
        try:
            while True:
                try:
                    stage = next(stages)
                except StopIteration as end:
                    outcome: Outcome = end.value
                    break
                now = monotonic()
                waited += now - last if waiting else 0.0
                waiting = stage.startswith("waiting")  # in line, or prepared and for the session before
                begun = begun or not waiting
                log.debug("stage", step=stage, seconds_since_last=rounded(now - last), **call.fields)
                last = now
                yield pb.DenoiseReply(stage=stage)
        finally:
            if begun:
                self.metrics.wait_seconds.observe(waited)
        seconds = monotonic() - admitted - waited
        cost = {"sent_bytes": outcome.stats.sent_bytes, "dealt_bytes": outcome.dealt_bytes}
        self.metrics.evaluated(seconds, outcome.offline_seconds, outcome.stats.online_seconds, **cost)
        log.info(
            "evaluated",
            waited_seconds=rounded(waited),
            seconds=rounded(seconds),
            offline_seconds=rounded(outcome.offline_seconds),
            online_seconds=rounded(outcome.stats.online_seconds),
            rounds=outcome.stats.rounds,
            push=str(outcome.push_id),
            **cost,
            **call.fields,
        )
        return outcome

    def _result_header(self, task: EvaluationRequest, outcome: Outcome) -> pb.ResultHeader:
        peak = outcome.peak_rss_bytes + peak_memory_bytes()
        cost = pb.Cost(
            online_seconds=outcome.stats.online_seconds,
            offline_seconds=outcome.offline_seconds,
            sent_bytes=outcome.stats.sent_bytes,
            dealt_bytes=outcome.dealt_bytes,
            rounds=outcome.stats.rounds,
            flags=outcome.flags,
            peak_rss_bytes=peak,
            dealer_peak_rss_bytes=outcome.dealer_peak_rss_bytes,
            messages=outcome.stats.messages,
        )
        channels, height, width = outcome.shape
        blind_leader = task.stored.packing == pb.PACKING_BLIND and self._role is Role.A
        return pb.ResultHeader(
            channels=channels,
            size=pb.Size(height=height, width=width),
            cost=cost,
            push_id=str(outcome.push_id),
            engine=outcome.engine,
            packed_seed=task.stored.seed if blind_leader else b"",
        )

    # --- models ---

    def PushModel(  # noqa: N802
        self, requests: Iterator[pb.PushModelRequest], context: grpc.ServicerContext
    ) -> pb.PushModelReply:
        """Run by the model owner: keep the shares, then open w - b with the other server."""
        stop = Abort()
        when_cancelled(context, stop)
        started = monotonic()
        with answering(context, "PushModel", self.metrics, cancelled=lambda: stop.cancelled) as call:
            caller = self._callers.require(context, "model-owner")
            with self._admission.place(caller), self._turns.enter(stop.interrupt) as place:
                stop.last(place.leave)
                header = next(requests, pb.PushModelRequest()).header
                call.note_id("session", header.session_id)
                self._begin_session(header.session_id)
                push_id = self._pushed(header, _chunks_only(requests), stop, place)
            self.metrics.maskings.inc()
            log.info("model pushed", model=header.name, push=push_id, seconds=rounded(monotonic() - started), **call.fields)
        return pb.PushModelReply(push_id=push_id)

    def _pushed(self, header: pb.PushModelHeader, words: Iterator[bytes], stop: Abort, place: Place) -> str:
        """Take a model in, mask it, and let it replace the older one: at A when B has it all too, at B when A has done so.

        Where the link breaks between the two, B keeps the older one, its call fails, and the servers refuse to evaluate.
        Its masked form comes last: that of a push which fails would take the place of the older model's at one server alone.
        """
        with ExitStack() as link:
            with self._models.receiving(header, words) as received:
                channel = link.enter_context(self._push_link(header.session_id, stop, place))
                masked = self._mask(channel, header.session_id, received, place)
                if self._role is Role.A:
                    channel.expect("ready")
                else:
                    channel.send(pb.PeerMessage(ready=pb.PeerReady()))
                    channel.expect("ready")
                    channel.finish()
            self._models.register(header.name, masked)
            if self._role is Role.A:
                channel.send(pb.PeerMessage(ready=pb.PeerReady()))
        return str(masked.push_id)

    @contextmanager
    def _push_link(self, session_id: str, stop: Abort, place: Place) -> Generator[PeerChannel]:
        """The link to the other server for one push."""
        if self._role is Role.A:
            channel = self._met(session_id, UPLOAD_SECONDS, stop, place)
        else:
            channel = self._dial(session_id)
            stop.watch_channel(channel)
        try:
            yield channel
        except PeerUnavailableError:
            place.require()  # the link was closed because this server stops: that is what the model owner is told
            raise
        finally:
            stop.release()
            channel.close()

    def _mask(self, channel: PeerChannel, session_id: str, received: Callable[[], PushedModel], place: Place) -> MaskedModel:
        order = channel.expect("order").order if self._role is Role.B else None
        for _ in itertools.chain(place.prepare(), place.alone()):
            pass  # a model owner is told nothing while it waits
        model = received()
        if order is not None:
            return self._evaluator.follow_masking(channel, order, session_id, model)
        boots = Boots(str(self._evaluator.boot_id), channel.boot)
        return self._evaluator.lead_masking(channel, session_id, model, boots)

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsReply:  # noqa: N802
        """Run by client, edge or model owner."""
        with answering(context, "ListModels", self.metrics):
            self._callers.require(context, "client", "edge", "model-owner")
            entries = [
                pb.ModelEntry(name=name, push_id=self._models.last_push(name), network=self._models.description(name).network)
                for name in self._models.names()
            ]
        return pb.ListModelsReply(models=entries)

    # --- the link between A and B ---

    def Follow(  # noqa: N802
        self, messages: Iterator[pb.PeerMessage], context: grpc.ServicerContext
    ) -> Iterator[pb.PeerMessage]:
        """Run by server B: its stream for one session."""
        with answering(context, "Follow", self.metrics) as call:
            caller = self._callers.require(context, "server-b")
            if self._role is not Role.A:
                raise ConfigurationError("server B has no followers; it follows server A")
            with self._admission.place(caller):  # until the stream has ended: B may still be taking our last opening
                hello = next(messages, pb.PeerMessage()).hello
                session = SessionId(hello.session_id)
                call.note(session=str(session))
                channel = PeerChannel(Role.B, boot=hello.boot_b)
                channel.attach(messages, cancel=context.cancel)
                when_cancelled(context, channel.close)
                self._meeting.arrive(session, channel)
                patience = threading.Timer(UNCLAIMED_SECONDS, self._meeting.expire, (session,))
                patience.daemon = True
                patience.start()
                try:
                    yield from channel.outgoing()
                finally:
                    patience.cancel()
                    self._meeting.leave(session)

    def _dial(self, session_id: str) -> PeerChannel:
        """Open our stream to A. Run by server B."""
        if self._leader is None or self._lead_stub is None:
            raise ConfigurationError("server A has no leader to dial")
        wait_for_reconnection(self._leader)
        channel = PeerChannel(Role.A, address=self._config.leader.place if self._config.leader else "")
        hello = pb.PeerHello(session_id=session_id, boot_b=str(self._evaluator.boot_id))
        channel.send(pb.PeerMessage(hello=hello))
        call = self._lead_stub.Follow(channel.outgoing(), timeout=SESSION_SECONDS)
        channel.attach(call, cancel=call.cancel)
        return channel

    # --- sessions ---

    def _begin_session(self, session_id: str) -> None:
        """Raises RemoteProtocolError where this session was seen before."""
        session = SessionId(session_id)
        with self._lock:
            if session in self._sessions:
                raise RemoteProtocolError(f"session {session} was seen before; sessions are used once")
            self._sessions[session] = None
            if len(self._sessions) > REMEMBERED_SESSIONS:
                self._sessions.popitem(last=False)


def _chunks_only(requests: Iterator[pb.StoreRequest] | Iterator[pb.PushModelRequest]) -> Iterator[bytes]:
    """What follows the header of an upload. Raises RemoteProtocolError: something else than a chunk of words, or an empty one."""
    for request in requests:
        if not request.chunk:
            kind = request.WhichOneof("content") or "nothing"
            raise RemoteProtocolError(f"the upload holds {kind}, where words of the share were due")
        yield request.chunk
