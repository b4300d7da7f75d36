"""The worker process, `python -m server.worker FD`: one evaluation, then it ends.

It holds no identity and no socket but the pair to its server process: the server relays openings and corrections.
Secrets reach it in its one job and end with the process.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from proto import darkroom_pb2 as pb
from proto.conversion import packing_from_wire
from proto.peak_memory import peak_memory_bytes, private_memory_bytes
from protocols import packing, ring, sharing
from protocols.dealing import PartyMaterial, weight_mask_share
from protocols.engines import SessionPlan, session_plan
from protocols.errors import DarkroomError, LocalProtocolError, RemoteProtocolError
from protocols.identifiers import MaterialId, Role
from protocols.masked_dealing import PartyMasks
from protocols.masked_evaluation import MaskedEvaluation
from protocols.masked_plan import MaskedPlan
from protocols.network import Network
from protocols.openings import OpeningLedger
from protocols.packing import PackingMode
from protocols.plan import Plan, masked_weights
from protocols.prg import Prg, derive_key
from protocols.shared_model import MaskedWeight, SharedModel
from server import crypten_engine, crypten_runtime
from server.exchange import BlockExchange, Sender, WholeExchange
from server.pipe import Kind, Pipe
from server.profile import Stopwatch, TimedExchange, TimedOpener

WARM_BLOCK_BYTES = 16 << 20  # in 10 to 20 ms
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def shared_model(job: pb.WorkerJob, network: Network) -> SharedModel:
    """The masked model in the form that the engine takes."""
    height, width = job.window.size.height, job.window.size.width
    masked = masked_weights(network, height, width)
    weights: dict[str, MaskedWeight] = {}
    offset = 0
    for position, (name, shape) in enumerate(masked.items()):
        share = weight_mask_share(job.push_seed, position, shape)
        end = offset + share.numel() * ring.WORD_BYTES
        weights[name] = MaskedWeight(ring.from_bytes(job.deltas[offset:end], shape), share)
        offset = end
    biases: dict[str, Tensor] = {}
    offset = 0
    for name, shape in network.parameter_shapes(height, width).items():
        if name not in masked:
            end = offset + ring.WORD_BYTES * shape[0]
            biases[name] = ring.from_bytes(job.bias_shares[offset:end], shape)
            offset = end
    return SharedModel(network, weights, biases)


def unpacked_share(job: pb.WorkerJob, role: Role) -> Tensor:
    """This server's share of the image, its own packing noise taken off (not in blind mode)."""
    shape = (1, job.size.height, job.size.width)
    image = sharing.expand_seed(job.image_share, shape) if role is Role.A else ring.from_bytes(job.image_share, shape)
    mode = packing_from_wire(job.packing)
    if mode is PackingMode.BLIND:
        return image
    return packing.unpack_share(image, job.noise_key, mode, job.packing_sigma)


def window_of(job: pb.WorkerJob, share: Tensor) -> Tensor:
    """The part of the image that this job is about."""
    window = job.window
    return share[:, window.top : window.top + window.size.height, window.left : window.left + window.size.width]


def corrections(pipe: Pipe, sizes: Sequence[int]) -> Iterator[Tensor]:
    """The dealer's corrections as the server relays them, each a row of words. Raises RemoteProtocolError."""
    for index, size in enumerate(sizes):
        header = pipe.receive_header()
        if header is None or header.kind is not Kind.CORRECTION or header.label != index:
            raise RemoteProtocolError(f"correction {index} did not come from the dealer")
        if header.length != size:
            raise RemoteProtocolError(f"correction {index} has {header.length} bytes, not {size}")
        words = torch.empty(size // ring.WORD_BYTES, dtype=torch.int64)
        pipe.receive_into(words.numpy().data)
        yield words


def rerandomise(role: Role, output: Tensor, peer_key: bytes) -> Tensor:
    """Before release A adds and B subtracts a stream that neither dealer nor edge knows (DESIGN section 6, Output)."""
    stream = Prg(derive_key(peer_key, b"output")).words(0, 0, tuple(output.shape))
    return output + stream if role is Role.A else output - stream


class Engine(Protocol):
    """What a worker does with a job, whichever engine evaluates it."""

    def prepare(self) -> None:
        """All that does not need the image."""

    def run(
        self, image: Tensor, sigma: Tensor, ledger: OpeningLedger, pipe: Pipe, sender: Sender, stopwatch: Stopwatch
    ) -> tuple[Tensor, int]:
        """This server's output share, and the number of flagged wires."""


class CrypTenJob:
    """The general engine."""

    def __init__(self, job: pb.WorkerJob, role: Role, plan: Plan, model: SharedModel, pipe: Pipe) -> None:
        crypten_runtime.import_crypten()
        self._plan, self._role, self._model = plan, role, model
        self._zero_key = derive_key(job.peer_key, b"zero")
        self._material = PartyMaterial(role, plan, job.material_seed)
        for index, words in enumerate(corrections(pipe, plan.correction_sizes if role is Role.B else [])):
            self._material.correct(index, words.view(plan.correlations[index].c_shape))

    def prepare(self) -> None:
        crypten_engine.compute_ahead(self._plan, self._model, self._material)

    def run(
        self, image: Tensor, sigma: Tensor, ledger: OpeningLedger, pipe: Pipe, sender: Sender, stopwatch: Stopwatch
    ) -> tuple[Tensor, int]:
        exchange = TimedExchange(WholeExchange(pipe, sender), stopwatch)
        crypten = crypten_runtime.start_evaluation(self._role, self._material, ledger, exchange, self._zero_key)
        return crypten_engine.CrypTenEvaluation(crypten, self._model).run(image, sigma), 0


class MaskedJob:
    """The masked engine; B's corrections are read while it folds."""

    def __init__(self, job: pb.WorkerJob, role: Role, plan: MaskedPlan, model: SharedModel, pipe: Pipe) -> None:
        dealt = corrections(pipe, plan.correction_sizes if role is Role.B else [])
        shaped = (words.view(shape) for words, shape in zip(dealt, plan.corrections, strict=False))
        self._evaluation = MaskedEvaluation(role, plan, model, PartyMasks(role, job.material_seed, shaped))

    def prepare(self) -> None:
        self._evaluation.prepare()

    def run(
        self, image: Tensor, sigma: Tensor, ledger: OpeningLedger, pipe: Pipe, sender: Sender, stopwatch: Stopwatch
    ) -> tuple[Tensor, int]:
        opener = TimedOpener(BlockExchange(pipe, sender, ledger), stopwatch)
        result = self._evaluation.run(image, sigma.view(1, 1, 1), opener)
        return result.share, result.flags


def engine_for(job: pb.WorkerJob, role: Role, plan: SessionPlan, model: SharedModel, pipe: Pipe) -> Engine:
    """The job on the engine that its plan is for."""
    if isinstance(plan, MaskedPlan):
        return MaskedJob(job, role, plan, model, pipe)
    return CrypTenJob(job, role, plan, model, pipe)


def warm(pipe: Pipe, size: int) -> None:
    """Touch so many bytes of the heap, which keeps them (`server.worker_pool.ALLOCATOR`), or as many as there is time for."""
    try:
        memory = torch.empty(size, dtype=torch.uint8)
    except RuntimeError:
        return  # there is less memory than there was: the job that comes may need less as well
    for start in range(0, size, WARM_BLOCK_BYTES):
        if pipe.holds_something():
            return
        memory[start : start + WARM_BLOCK_BYTES].fill_(0)


def evaluate(pipe: Pipe) -> None:
    """Serve the one job that comes through the pipe."""
    header = pipe.receive_header()
    if header is not None and header.kind is Kind.WARM:
        warm(pipe, header.label << 20)
        header = pipe.receive_header()
    if header is None:
        return  # the server stopped before it had a job for us
    if header.kind is not Kind.JOB:
        raise LocalProtocolError(f"expected a job, got {header.kind.name}")
    job = pb.WorkerJob.FromString(bytes(pipe.receive_bytes(header.length)))
    role = Role(job.role)
    network = Network.from_json(job.network)
    plan = session_plan(job.engine, network, job.window.size.height, job.window.size.width)
    started = time.monotonic()
    engine = engine_for(job, role, plan, shared_model(job, network), pipe)
    engine.prepare()
    ahead_seconds = time.monotonic() - started
    pipe.send(Kind.READY)
    header = pipe.receive_header()
    if header is None or header.kind is not Kind.GO:
        raise RemoteProtocolError("the other server did not get ready")
    started = time.monotonic()
    sender, stopwatch = Sender(pipe), Stopwatch()
    ledger = OpeningLedger(MaterialId(job.material_id), [plan.opened_words(index) for index in range(plan.rounds)])
    sigma = torch.tensor([job.sigma_share], dtype=torch.int64)
    try:
        output, flags = engine.run(window_of(job, unpacked_share(job, role)), sigma, ledger, pipe, sender, stopwatch)
        stopwatch.stop()
    finally:
        sender.finish()
    if not ledger.finished:
        raise LocalProtocolError(f"the evaluation ended after {ledger.rounds} of {plan.rounds} openings")
    output = rerandomise(role, output, job.peer_key)
    stats = pb.WorkerStats(
        ahead_seconds=ahead_seconds,
        online_seconds=time.monotonic() - started,
        rounds=ledger.rounds,
        sent_bytes=sender.sent_bytes,
        peak_rss_bytes=peak_memory_bytes(),
        flags=flags,
        messages=stopwatch.messages,
        nursery_private_bytes=private_memory_bytes(os.getppid()),  # now: what this worker has changed is no longer shared
    )
    pipe.send(Kind.STATS, stats.SerializeToString())
    if not flags:  # a share that truncation may have spoiled is never released
        pipe.send(Kind.RESULT, ring.to_bytes(output))


def end_with_the_server(parent: int) -> None:
    """Never outlive the process that forked or started this one, which does not outlive the server."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def run(descriptor: int, parent: int) -> None:
    """Be a worker, in a process of its own, on our end of a socket pair. parent: the process that started this one."""
    end_with_the_server(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write shares and keys to a disk
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    pipe = Pipe(socket.socket(fileno=descriptor))
    try:
        try:
            evaluate(pipe)
        except DarkroomError as error:
            pipe.send(Kind.FAILED, f"{type(error).__name__}: {error}".encode())
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server abandoned this evaluation
    finally:
        pipe.close()


def main() -> None:
    """Entry point: the file descriptor is the only argument."""
    run(int(sys.argv[1]), parent=os.getppid())


if __name__ == "__main__":
    main()
