"""The gRPC services of a server: `Server` for hospital and model owner, `PeerLink` (at A) for server B."""

import resource
import threading
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final

import grpc
import structlog

from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.conversion import packing_from_wire
from proto.status import abort
from proto.transport import CONNECT_SECONDS, Callers, chunks, open_channel, wait_for_reconnection
from protocols.errors import (
    BadInputError,
    BusyError,
    ConfigurationError,
    DarkroomError,
    RemoteProtocolError,
    SessionBrokenError,
)
from protocols.identifiers import ObjectId, Role, SessionId
from protocols.network import MIN_SIDE
from protocols.packing import PackingMode
from protocols.prg import KEY_BYTES
from protocols.ring import WORD_BYTES
from server.config import ServerConfig
from server.dealer_client import Boots, DealerClient
from server.evaluation import Abort, EvaluationRequest, Evaluator, Outcome
from server.grants import verify_grant
from server.models import ModelRegistry
from server.peer_channel import MeetingPoint, PeerChannel
from server.share_store import ShareStore
from server.worker_pool import WorkerPool

MAX_PIXELS: Final = 1 << 26  # 0.5 GiB of share; larger images are not radiographs
# Places for one identity's calls, so that none takes every thread; beyond them: busy. One evaluates, the others wait.
CALL_LIMITS: Final = {"client": 8, "edge": 8, "model-owner": 2}
REMEMBERED_SESSIONS: Final = 1 << 16  # a repeated id is an edge's mistake; what must never repeat is the material
SESSION_SECONDS: Final = 1800.0
UNCLAIMED_SECONDS: Final = 60.0  # the edge calls both servers at once; a stream that A never asks for is sent away
UPLOAD_SECONDS: Final = 300.0  # A has its seed at once; B joins when its words have arrived
ENGINE: Final = "crypten"

log = structlog.get_logger("server")


class ServerService(rpc.ServerServicer, rpc.PeerLinkServicer):
    """One server, in role A or B."""

    def __init__(self, config: ServerConfig, callers: Callers, workers: WorkerPool) -> None:
        self._config = config
        self._role = config.role
        self._callers = callers
        self._objects = ShareStore(config.store / "objects")
        self._models = ModelRegistry(ShareStore(config.store / "models"), config.role)
        dealer = DealerClient(open_channel(config.identity, config.dealer), config.dealer)
        self._evaluator = Evaluator(config.role, self._models, dealer, workers)
        self._meeting = MeetingPoint()
        self._sessions: OrderedDict[SessionId, None] = OrderedDict()
        self._under_way: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._leader = open_channel(config.identity, config.leader) if config.leader else None

    # --- images ---

    def Store(self, requests: Iterator[pb.StoreRequest], context: grpc.ServicerContext) -> pb.StoreReply:  # noqa: N802
        """Run by the client."""
        with _answering(context), self._place(self._callers.require(context, "client")):
            header = next(requests, pb.StoreRequest()).header
            object_id = ObjectId(header.object_id)
            expected = self._check_store(header)
            words = _chunks_only(requests)
            self._objects.write(str(object_id), header.SerializeToString(), words, expected, replace=False)
            if not context.is_active():  # the client has taken it back before it was whole, and will not ask again
                self._objects.delete(str(object_id))
                raise SessionBrokenError(f"the client left while {object_id} was stored; it is deleted")
            log.info("stored", object=str(object_id), height=header.size.height, width=header.size.width)
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
        with _answering(context):
            self._callers.require(context, "client")
            self._objects.delete(str(ObjectId(request.object_id)))
            log.info("deleted", object=request.object_id)
        return pb.DeleteReply()

    def Denoise(  # noqa: N802
        self, request: pb.DenoiseRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DenoiseReply]:
        """Run by the edge."""
        stop = Abort()
        context.add_callback(stop)
        context.add_callback(self._meeting.wake)
        with _answering(context), self._place(caller := self._callers.require(context, "edge")):
            self._begin_session(request.session_id)
            task, stored_words = self._checked(request, caller)
            stages = self._lead(task, stop) if self._role is Role.A else self._follow(task, stop)
            outcome = yield from _staged(stages)
            log.info("evaluated", session=task.session_id, rounds=outcome.stats.rounds)
            yield pb.DenoiseReply(header=self._result_header(task, outcome))
            for chunk in chunks(outcome.share):
                yield pb.DenoiseReply(chunk=chunk)
            if task.stored.packing == pb.PACKING_BLIND and self._role is Role.B:
                for chunk in chunks(stored_words):
                    yield pb.DenoiseReply(packed_chunk=chunk)

    def _checked(self, request: pb.DenoiseRequest, caller: str) -> tuple[EvaluationRequest, bytes]:
        """Everything that can be refused before a peer is troubled."""
        object_id = ObjectId(request.object_id)
        verify_grant(request.grant, self._config.grant_key, object_id=object_id, caller=caller)
        stored = self._objects.read(str(object_id))
        header = pb.StoreHeader.FromString(stored.header)
        blind = packing_from_wire(header.packing) is PackingMode.BLIND
        if len(request.noise_key) != (0 if blind else KEY_BYTES):
            raise RemoteProtocolError("blind objects are opened without a noise key, others with 32 bytes")
        task = EvaluationRequest(
            session_id=str(SessionId(request.session_id)),
            object_id=str(object_id),
            model=request.model,
            stored=header,
            image_share=header.seed if self._role is Role.A else stored.words,
            noise_key=request.noise_key,
            sigma_share=request.sigma_share,
        )
        self._models.description(request.model)
        return task, stored.words

    def _lead(self, task: EvaluationRequest, stop: Abort) -> Generator[str, None, Outcome]:
        session = SessionId(task.session_id)
        yield "waiting for server B"
        channel = self._meeting.take(session, CONNECT_SECONDS, lambda: stop.aborted)
        stop.watch_channel(channel)
        try:
            with self._evaluator.turn:
                return (yield from self._evaluator.lead(channel, channel.boot, task, stop))
        finally:
            stop.release()
            channel.close()

    def _follow(self, task: EvaluationRequest, stop: Abort) -> Generator[str, None, Outcome]:
        channel = self._dial(task.session_id)
        stop.watch_channel(channel)
        try:
            outcome = yield from self._evaluator.follow(channel, task, stop)
            channel.finish()
            return outcome
        finally:
            stop.release()
            channel.close()

    def _result_header(self, task: EvaluationRequest, outcome: Outcome) -> pb.ResultHeader:
        peak = outcome.stats.peak_rss_bytes + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        cost = pb.Cost(
            online_seconds=outcome.stats.online_seconds,
            offline_seconds=outcome.offline_seconds,
            sent_bytes=outcome.stats.sent_bytes,
            dealt_bytes=outcome.dealt_bytes,
            rounds=outcome.stats.rounds,
            peak_rss_bytes=peak,
            dealer_peak_rss_bytes=outcome.dealer_peak_rss_bytes,
        )
        channels, height, width = outcome.shape
        blind_leader = task.stored.packing == pb.PACKING_BLIND and self._role is Role.A
        return pb.ResultHeader(
            channels=channels,
            size=pb.Size(height=height, width=width),
            cost=cost,
            push_id=str(outcome.push_id),
            engine=ENGINE,
            packed_seed=task.stored.seed if blind_leader else b"",
        )

    # --- models ---

    def PushModel(  # noqa: N802
        self, requests: Iterator[pb.PushModelRequest], context: grpc.ServicerContext
    ) -> pb.PushModelReply:
        """Run by the model owner: keep the shares, then open w - b with the other server."""
        stop = Abort()
        context.add_callback(stop)
        context.add_callback(self._meeting.wake)
        with _answering(context), self._place(self._callers.require(context, "model-owner")):
            header = next(requests, pb.PushModelRequest()).header
            self._begin_session(header.session_id)
            self._models.upload(header, _chunks_only(requests))
            push_id = self._mask(header.session_id, header.name, stop)
            log.info("model pushed", model=header.name, push=push_id)
        return pb.PushModelReply(push_id=push_id)

    def _mask(self, session_id: str, name: str, stop: Abort) -> str:
        model = self._models.load(name)
        if self._role is Role.A:
            channel = self._meeting.take(SessionId(session_id), UPLOAD_SECONDS, lambda: stop.aborted)
        else:
            channel = self._dial(session_id)
        stop.watch_channel(channel)
        try:
            if self._role is Role.A:
                boots = Boots(str(self._evaluator.boot_id), channel.boot)
                with self._evaluator.turn:
                    return str(self._evaluator.lead_masking(channel, session_id, model, boots).push_id)
            order = channel.expect("order").order
            masked = self._evaluator.follow_masking(channel, order, session_id, model)
            channel.finish()
            return str(masked.push_id)
        finally:
            stop.release()
            channel.close()

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsReply:  # noqa: N802
        """Run by client, edge or model owner."""
        with _answering(context):
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
        with _answering(context):
            self._callers.require(context, "server-b")
            if self._role is not Role.A:
                raise ConfigurationError("server B has no followers; it follows server A")
            hello = next(messages, pb.PeerMessage()).hello
            session = SessionId(hello.session_id)
            channel = PeerChannel(Role.B, boot=hello.boot_b)
            channel.attach(messages, cancel=context.cancel)
            context.add_callback(channel.close)
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
        if self._leader is None:
            raise ConfigurationError("server A has no leader to dial")
        wait_for_reconnection(self._leader)
        channel = PeerChannel(Role.A, address=self._config.leader.address if self._config.leader else "")
        hello = pb.PeerHello(session_id=session_id, boot_b=str(self._evaluator.boot_id))
        channel.send(pb.PeerMessage(hello=hello))
        call = rpc.PeerLinkStub(self._leader).Follow(channel.outgoing(), timeout=SESSION_SECONDS)
        channel.attach(call, cancel=call.cancel)
        return channel

    # --- sessions ---

    @contextmanager
    def _place(self, caller: str) -> Generator[None]:
        """A place among this caller's calls. Raises BusyError."""
        limit = CALL_LIMITS[caller]
        with self._lock:
            if self._under_way[caller] >= limit:
                raise BusyError(f"server {self._role.value} has {limit} calls of {caller} under way; try again in a minute")
            self._under_way[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[caller] -= 1

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


@contextmanager
def _answering(context: grpc.ServicerContext) -> Generator[None]:
    """Turn errors of the block into a gRPC status, and log them."""
    try:
        yield
    except DarkroomError as error:
        log.warning("refused", error=type(error).__name__, reason=str(error))
        abort(context, error)


def _staged(stages: Generator[str, None, Outcome]) -> Generator[pb.DenoiseReply, None, Outcome]:
    """Pass stages on as messages; return the outcome."""
    while True:
        try:
            stage = next(stages)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        yield pb.DenoiseReply(stage=stage)
