"""The worker process, `python -m server.worker FD`: one evaluation by the CrypTen engine, then it ends.

It holds no identity and no socket but the pair to its server process: the server relays openings and corrections.
Secrets reach it in its one job and end with the process.
"""

import ctypes
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from proto import darkroom_pb2 as pb
from proto.conversion import packing_from_wire
from protocols import packing, ring, sharing
from protocols.dealing import PartyMaterial, weight_mask_share
from protocols.errors import DarkroomError, LocalProtocolError, RemoteProtocolError
from protocols.identifiers import MaterialId, Role
from protocols.network import Network
from protocols.openings import OpeningLedger
from protocols.packing import PackingMode
from protocols.plan import Plan, masked_weights, plan_for
from protocols.prg import Prg, derive_key
from server import crypten_engine, crypten_runtime
from server.crypten_engine import SharedModel
from server.crypten_runtime import MaskedWeight
from server.pipe import Kind, Pipe

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class PipedExchange:
    """Sends this server's openings and receives the peer's through the server process.

    Sending runs in its own thread: both workers send at once, and each must read while it writes.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._outgoing: queue.SimpleQueue[tuple[int, Sequence[Tensor]] | None] = queue.SimpleQueue()
        self.sent_bytes = 0
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        self._sender.start()

    def _send_all(self) -> None:
        try:
            while (opening := self._outgoing.get()) is not None:
                index, tensors = opening
                self._pipe.send_header(Kind.OPENING, index, sum(tensor.numel() for tensor in tensors) * ring.WORD_BYTES)
                for tensor in tensors:
                    self._pipe.send_bytes(tensor.contiguous().numpy().data.cast("B"))
        except OSError:
            pass  # the server has closed the pipe; the receiving side says so

    def finish(self) -> None:
        """Wait until the last opening has left.

        The peer's last opening can be here long before ours is gone. A frame sent meanwhile would land inside our opening,
        and so at the other server: this server's output share among them.
        """
        self._outgoing.put(None)
        self._sender.join()

    def __call__(self, index: int, own: Sequence[Tensor]) -> list[Tensor]:
        """One opening, both ways."""
        words = sum(tensor.numel() for tensor in own)
        self._outgoing.put((index, own))
        self.sent_bytes += words * ring.WORD_BYTES
        header = self._pipe.receive_header()
        if header is None or header.kind is not Kind.OPENING:
            raise RemoteProtocolError(f"the link to the other server broke at opening {index}")
        if header.label != index or header.length != words * ring.WORD_BYTES:
            raise RemoteProtocolError(f"opening {header.label} of {header.length} bytes came in place of opening {index}")
        received = []
        for tensor in own:
            theirs = torch.empty(tensor.shape, dtype=torch.int64)
            self._pipe.receive_into(theirs.numpy().data)
            received.append(theirs)
        return received


def shared_model(job: pb.WorkerJob, network: Network) -> SharedModel:
    """The masked model in the form that the engine takes."""
    height, width = job.size.height, job.size.width
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


def receive_material(pipe: Pipe, plan: Plan, role: Role, seed: bytes) -> PartyMaterial:
    """Expand the seed; take in B's corrections as the server relays them."""
    material = PartyMaterial(role, plan, seed)
    if role is Role.B:
        for index, item in enumerate(plan.correlations):
            header = pipe.receive_header()
            if header is None or header.kind is not Kind.CORRECTION or header.label != index:
                raise RemoteProtocolError(f"correction {index} did not come from the dealer")
            if header.length != plan.correction_bytes(index):
                raise RemoteProtocolError(f"correction {index} has {header.length} bytes, not {plan.correction_bytes(index)}")
            words = torch.empty(item.c_shape, dtype=torch.int64)
            pipe.receive_into(words.numpy().data)
            material.correct(index, words)
    return material


def rerandomise(role: Role, output: Tensor, peer_key: bytes) -> Tensor:
    """Before release A adds and B subtracts a stream that neither dealer nor edge knows (DESIGN section 6, Output)."""
    stream = Prg(derive_key(peer_key, b"output")).words(0, 0, tuple(output.shape))
    return output + stream if role is Role.A else output - stream


def evaluate(pipe: Pipe) -> None:
    """Serve the one job that comes through the pipe."""
    crypten_runtime.import_crypten()  # slow: done before the job comes
    header = pipe.receive_header()
    if header is None:
        return  # the server stopped before it had a job for us
    if header.kind is not Kind.JOB:
        raise LocalProtocolError(f"expected a job, got {header.kind.name}")
    job = pb.WorkerJob.FromString(bytes(pipe.receive_bytes(header.length)))
    role = Role(job.role)
    network = Network.from_json(job.network)
    plan = plan_for(network, job.size.height, job.size.width)
    model = shared_model(job, network)
    material = receive_material(pipe, plan, role, job.material_seed)
    started = time.monotonic()
    crypten_engine.compute_ahead(plan, model, material)
    ahead_seconds = time.monotonic() - started
    pipe.send(Kind.READY)
    header = pipe.receive_header()
    if header is None or header.kind is not Kind.GO:
        raise RemoteProtocolError("the other server did not get ready")
    started = time.monotonic()
    exchange = PipedExchange(pipe)
    ledger = OpeningLedger(MaterialId(job.material_id), [plan.opened_words(i) for i in range(len(plan.correlations))])
    zero_key = derive_key(job.peer_key, b"zero")
    crypten = crypten_runtime.start_evaluation(role, material, ledger, exchange, zero_key)
    sigma = torch.tensor([job.sigma_share], dtype=torch.int64)
    try:
        output = crypten_engine.CrypTenEvaluation(crypten, model).run(unpacked_share(job, role), sigma)
    finally:
        exchange.finish()
    if not ledger.finished:
        raise LocalProtocolError(f"the evaluation ended after {ledger.rounds} of {len(plan.correlations)} openings")
    output = rerandomise(role, output, job.peer_key)
    stats = pb.WorkerStats(
        ahead_seconds=ahead_seconds,
        online_seconds=time.monotonic() - started,
        rounds=ledger.rounds,
        sent_bytes=exchange.sent_bytes,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    pipe.send(Kind.STATS, stats.SerializeToString())
    pipe.send(Kind.RESULT, ring.to_bytes(output))


def main() -> None:
    """Entry point: the file descriptor of our end of the socket pair is the only argument."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive the server
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write shares and keys to a disk
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    pipe = Pipe(socket.socket(fileno=int(sys.argv[1])))
    try:
        try:
            evaluate(pipe)
        except DarkroomError as error:
            pipe.send(Kind.FAILED, f"{type(error).__name__}: {error}".encode())
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server abandoned this evaluation
    finally:
        pipe.close()


if __name__ == "__main__":
    main()
