"""Live parties that write their view down (`security.recording`) and may be broken on purpose (`security.stage`).

They are the shipped services and the shipped worker; what is added is a tap at every door. Started by name through
`darkroom.simulation.simulation(modules=...)`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import structlog
import torch

from dealer.__main__ import THREADS, add_dealer
from dealer.service import DealerService
from proto import darkroom_pb2 as pb
from proto.logs import configure_logs
from proto.party import Settings, serve
from proto.transport import Callers
from protocols.errors import DarkroomError
from protocols.identifiers import Role
from security.broken_dealing import apply_fault
from security.recorded_calls import RecordedStub, tapped
from security.recorded_context import RecordedContext
from security.recording import ENDED, HELD, RECEIVED, SENT, Entry, Recorder
from security.stage import ROLE_VARIABLE, Fault, Stage
from server.config import ServerConfig, server_config
from server.limits import call_threads
from server.pipe import Kind, Pipe
from server.process import add_server
from server.service import ServerService
from server.worker_pool import NURSERY, WorkerPool, WorkerProcess

STAGED_NURSERY: Final = "security.staged_worker"

Reply = TypeVar("Reply")

log = structlog.get_logger("server")


class _RecordedPipe(Pipe):
    """Our end of a worker's pipe: what the worker is given as its job is what this server holds in a session."""

    def __init__(self, pipe: Pipe, recorder: Recorder) -> None:
        super().__init__(pipe._socket)
        self._recorder = recorder

    def send(self, kind: Kind, payload: bytes | memoryview = b"", label: int = 0) -> None:
        if kind is Kind.JOB:
            self._recorder.entry(Entry("worker", HELD, "WorkerJob", bytes(payload)))
        super().send(kind, payload, label)


class _RecordedPool(WorkerPool):
    """Any pool, with recorded pipes."""

    def __init__(self, pool: WorkerPool, recorder: Recorder) -> None:
        self._pool, self._recorder = pool, recorder

    def take(self, size: int) -> WorkerProcess:
        worker = self._pool.take(size)
        worker.pipe = _RecordedPipe(worker.pipe, self._recorder)
        return worker

    def keep_spare(self, size: int) -> None:
        self._pool.keep_spare(size)

    def require_warm(self) -> None:
        self._pool.require_warm()

    def close(self) -> None:
        self._pool.close()


class RecordedServer(ServerService):
    """The shipped server with a tap at every call, those that it answers and those that it makes."""

    def __init__(
        self, config: ServerConfig, callers: Callers, workers: WorkerPool, recorder: Recorder, metadata: Recorder
    ) -> None:
        super().__init__(config, callers, _RecordedPool(workers, recorder))
        self._recorder, self._metadata = recorder, metadata
        dealer: Any = self._evaluator._dealer
        dealer._stub = RecordedStub(recorder, "dealer", dealer._stub)
        if self._lead_stub is not None:
            leads: Any = RecordedStub(recorder, "server-a", self._lead_stub)
            self._lead_stub = leads

    def Store(self, requests: Iterator[pb.StoreRequest], context: grpc.ServicerContext) -> pb.StoreReply:  # noqa: N802
        """Recorded."""
        told = self._told("client Store", context)
        tap = tapped(self._recorder, "client Store", RECEIVED, requests)
        return self._sent("client Store", super().Store(tap, told))

    def Delete(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> pb.DeleteReply:  # noqa: N802
        """Recorded."""
        told = self._told("client Delete", context)
        self._recorder.message("client Delete", RECEIVED, request)
        return self._sent("client Delete", super().Delete(request, told))

    def Denoise(self, request: pb.DenoiseRequest, context: grpc.ServicerContext) -> Iterator[pb.DenoiseReply]:  # noqa: N802
        """Recorded, and how it ended."""
        told = self._told("edge Denoise", context)
        self._recorder.message("edge Denoise", RECEIVED, request)
        yield from self._stream("edge Denoise", super().Denoise(request, told))

    def PushModel(  # noqa: N802
        self, requests: Iterator[pb.PushModelRequest], context: grpc.ServicerContext
    ) -> pb.PushModelReply:
        """Recorded."""
        told = self._told("model-owner PushModel", context)
        tap = tapped(self._recorder, "model-owner PushModel", RECEIVED, requests)
        return self._sent("model-owner PushModel", super().PushModel(tap, told))

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsReply:  # noqa: N802
        """Recorded."""
        told = self._told("hospital ListModels", context)
        self._recorder.message("hospital ListModels", RECEIVED, request)
        return self._sent("hospital ListModels", super().ListModels(request, told))

    def Follow(self, messages: Iterator[pb.PeerMessage], context: grpc.ServicerContext) -> Iterator[pb.PeerMessage]:  # noqa: N802
        """Recorded, and how it ended."""
        told = self._told("server-b Follow", context)
        tap = tapped(self._recorder, "server-b Follow", RECEIVED, messages)
        yield from self._stream("server-b Follow", super().Follow(tap, told))

    def _told(self, link: str, context: grpc.ServicerContext) -> Any:
        return RecordedContext(context, self._metadata, link)

    def _sent(self, link: str, reply: Reply) -> Reply:
        self._recorder.message(link, SENT, reply)
        return reply

    def _stream(self, link: str, replies: Iterator[Any]) -> Iterator[Any]:
        ending = "failed"
        try:
            yield from tapped(self._recorder, link, SENT, replies)
            ending = "OK"
        except GeneratorExit:
            ending = "cancelled"
            raise
        finally:
            self._recorder.entry(Entry(link, ENDED, "", ending.encode()))


class CarelessServer(RecordedServer):
    """The twin of the leak search: everything that a server must not do with a noise key and a job's share."""

    def Denoise(self, request: pb.DenoiseRequest, context: grpc.ServicerContext) -> Iterator[pb.DenoiseReply]:  # noqa: N802
        """Logs the key and the grant, leaves the key in a temporary file, and shows it in a process title."""
        key = request.noise_key.hex()
        log.debug("opening", noise_key=key, grant=request.grant)
        with tempfile.NamedTemporaryFile(prefix="job-", delete=False) as file:
            file.write(request.noise_key)
        sleep = [sys.executable, "-c", "import time; time.sleep(4)", key]
        child = subprocess.Popen(sleep)
        try:
            yield from super().Denoise(request, context)
        finally:
            child.wait()


class RecordedDealer(DealerService):
    """The shipped dealer with a tap at every call."""

    def __init__(self, callers: Callers, recorder: Recorder, metadata: Recorder) -> None:
        super().__init__(callers)
        self._recorder, self._metadata = recorder, metadata

    def _link(self, context: grpc.ServicerContext, call: str, request: Any) -> tuple[str, Any]:
        """What the call is recorded as, and the context that its service is given."""
        link = f"{self._callers.require(context, 'server-a', 'server-b')} {call}"
        told = RecordedContext(context, self._metadata, link)
        self._recorder.message(link, RECEIVED, request)
        return link, told

    def OpenPush(self, request: pb.OpenPushRequest, context: grpc.ServicerContext) -> pb.OpenPushReply:  # noqa: N802
        """Recorded."""
        link, told = self._link(context, "OpenPush", request)
        return self._sent(link, super().OpenPush(request, told))

    def ClaimPush(self, request: pb.ClaimPushRequest, context: grpc.ServicerContext) -> pb.ClaimPushReply:  # noqa: N802
        """Recorded."""
        link, told = self._link(context, "ClaimPush", request)
        return self._sent(link, super().ClaimPush(request, told))

    def OpenMaterial(  # noqa: N802
        self, request: pb.OpenMaterialRequest, context: grpc.ServicerContext
    ) -> pb.OpenMaterialReply:
        """Recorded."""
        link, told = self._link(context, "OpenMaterial", request)
        return self._sent(link, super().OpenMaterial(request, told))

    def ClaimMaterial(  # noqa: N802
        self, request: pb.ClaimMaterialRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.MaterialChunk]:
        """Recorded."""
        link, told = self._link(context, "ClaimMaterial", request)
        yield from tapped(self._recorder, link, SENT, super().ClaimMaterial(request, told))

    def _sent(self, link: str, reply: Reply) -> Reply:
        self._recorder.message(link, SENT, reply)
        return reply


def run_recorded_server(role: Role) -> None:
    """As `server.process.run_server`, with taps."""
    stage, settings = _begin(f"recorded server {role.value}")
    os.environ[ROLE_VARIABLE] = role.value  # for its workers
    config = server_config(settings, role)
    recorder, metadata = _recorders(stage, f"server-{role.value.lower()}")
    broken = stage.counted or stage.fault in (Fault.DROPPED, Fault.DEVIATING)
    workers = WorkerPool(STAGED_NURSERY if broken else NURSERY)
    careless = stage.fault is Fault.CARELESS and role is Role.B
    service = partial(
        CarelessServer if careless else RecordedServer, config, workers=workers, recorder=recorder, metadata=metadata
    )

    def add(server: grpc.Server, callers: Callers) -> ServerService:
        return add_server(server, service(callers=callers))

    try:
        serve(settings, add, threads=call_threads(config.waiting))
    finally:
        workers.close()


def run_recorded_dealer() -> None:
    """As `dealer.__main__`, with taps."""
    stage, settings = _begin("recorded dealer")
    torch.set_grad_enabled(False)
    recorder, metadata = _recorders(stage, "dealer")
    apply_fault(stage.fault)
    serve(settings, lambda server, callers: add_dealer(server, RecordedDealer(callers, recorder, metadata)), threads=THREADS)


def _recorders(stage: Stage, party: str) -> tuple[Recorder, Recorder]:
    """Of a party's messages, and of what calls carry beside them."""
    return Recorder(stage.folder / f"{party}.rec"), Recorder(stage.folder / f"{party}.metadata")


def _begin(name: str) -> tuple[Stage, Settings]:
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--exit-on-stdin-eof", action="store_true")
    arguments = parser.parse_args()
    configure_logs()
    torch.set_num_threads(1)
    try:
        return Stage.from_environment(), Settings.load(arguments.config)
    except DarkroomError as error:
        sys.exit(f"{name}: {error}")
