"""Two real workers of the CrypTen engine joined by a fake link that records everything each of them receives."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from proto import darkroom_pb2 as pb
from protocols import dealing, ring, sharing
from protocols.engines import CRYPTEN
from protocols.errors import LocalProtocolError
from protocols.identifiers import MaterialId, PushId, Role
from protocols.network import Network
from protocols.plan import AndTriple, Plan, SharedBit, masked_weights, plan_for
from protocols.prg import Prg, derive_key
from server.pipe import Kind, Pipe
from tests.protocols.every_layer import encoded_weights

SECONDS = 60
ROOT = Path(__file__).parents[2]


@dataclass
class Transcript:
    """What a run showed: the output shares, and per opening the words that each worker sent."""

    plan: Plan
    shares: dict[Role, Tensor] = field(default_factory=dict)
    stats: dict[Role, pb.WorkerStats] = field(default_factory=dict)
    openings: dict[Role, list[Tensor]] = field(default_factory=lambda: {Role.A: [], Role.B: []})
    corrections: list[Tensor] = field(default_factory=list)
    failures: dict[Role, str] = field(default_factory=dict)
    broken: dict[Role, str] = field(default_factory=dict)
    image_shares: dict[Role, Tensor] = field(default_factory=dict)
    seeds: dict[Role, bytes] = field(default_factory=dict)
    push_seeds: dict[Role, bytes] = field(default_factory=dict)

    @property
    def output(self) -> Tensor:
        """The result's words, row by row."""
        return sharing.reconstruct(self.shares[Role.A], self.shares[Role.B])

    @property
    def opened(self) -> list[Tensor]:
        """What both servers saw: the sum of both messages of each opening (XOR for bits)."""
        pairs = zip(self.plan.correlations, self.openings[Role.A], self.openings[Role.B], strict=True)
        return [a ^ b if isinstance(item, AndTriple | SharedBit) else a + b for item, a, b in pairs]


# Words that the peer's worker receives in place of one opening, each with its label; and what happens before a message is read.
Relay = Callable[[Role, int, bytes], list[tuple[int, bytes]]]
Hold = Callable[[Role, int], None]


class WorkersPipe(Pipe):
    """Our end of a worker's socket pair; it can be closed in one direction."""

    def end_sending(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the worker has gone


class Processes:
    """Worker processes as a server starts them."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> WorkersPipe:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "server.worker", str(theirs.fileno())]
            self._started.append(subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT))
        return WorkersPipe(ours)

    def wait(self) -> None:
        for process in self._started:
            process.wait(SECONDS)


def run_joined(
    network: Network,
    weights: dict[str, Tensor],
    image: Tensor,
    sigma: int,
    *,
    seed: bytes,
    session: bytes = b"",
    start: Callable[[], WorkersPipe] | None = None,
    tamper_seed: Callable[[Role, bytes], bytes] = lambda _, material: material,
    relay: Relay = lambda _, label, payload: [(label, payload)],
    hold: Hold = lambda _, __: None,
) -> Transcript:
    """Deal, evaluate and record. `seed` drives every random choice, so that a run repeats exactly.

    image: (1, h, w) words. The image share of A is a seed's expansion, B's the difference; packing is blind (none taken off).
    session: what differs between two sessions with one material: the image's shares and the key of A and B.
    """
    height, width = image.shape[1:]
    plan = plan_for(network, height, width)
    push, material = PushId(derive_key(seed, b"push").hex()[:32]), MaterialId(derive_key(seed, b"m").hex()[:32])
    push_seeds = {role: dealing.push_seed(seed, role, push, network.digest) for role in Role}
    seeds = {role: dealing.session_seed(seed, role, material, b"context") for role in Role}
    encoded = encoded_weights(network, weights)
    masked = masked_weights(network, height, width)
    masks, deltas = {}, []
    for position, (name, shape) in enumerate(masked.items()):
        masks[name] = sum(dealing.weight_mask_share(push_seeds[role], position, shape) for role in Role)
        deltas.append(encoded[name].view(shape) - masks[name])
    bias_names = [name for name in network.parameter_shapes(height, width) if name not in masked]
    bias_seed = derive_key(seed, b"bias")
    image_pair = sharing.share(image, seed=derive_key(seed, b"image", session))
    transcript = Transcript(plan, seeds=seeds, push_seeds=push_seeds)
    transcript.image_shares = {Role.A: sharing.expand_seed(image_pair.seed, tuple(image.shape)), Role.B: image_pair.words}
    sigma_share = int(Prg(derive_key(seed, b"sigma", session)).words(0, 0, (1,)))
    processes = Processes()
    pipes = {role: (start or processes.start)() for role in Role}
    for role, pipe in pipes.items():
        biases = []
        for label, name in enumerate(bias_names):
            share_a = Prg(bias_seed).words(label, 0, tuple(encoded[name].shape))
            biases.append(share_a if role is Role.A else encoded[name] - share_a)
        other = torch.tensor(sigma) - torch.tensor(sigma_share)
        job = pb.WorkerJob(
            role=role.value,
            network=network.to_json(),
            size=pb.Size(height=height, width=width),
            window=pb.Window(size=pb.Size(height=height, width=width)),
            material_id=str(material),
            material_seed=tamper_seed(role, seeds[role]),
            push_seed=push_seeds[role],
            deltas=b"".join(map(ring.to_bytes, deltas)),
            bias_shares=b"".join(map(ring.to_bytes, biases)),
            packing=pb.PACKING_BLIND,
            image_share=image_pair.seed if role is Role.A else ring.to_bytes(image_pair.words),
            sigma_share=sigma_share if role is Role.A else int(other),
            peer_key=derive_key(seed, b"peer", session),
            engine=CRYPTEN,
        )
        pipe.send(Kind.JOB, job.SerializeToString())
    for index, words in dealing.corrections(plan, seeds[Role.A], seeds[Role.B], masks):
        transcript.corrections.append(words)
        pipes[Role.B].send(Kind.CORRECTION, ring.to_bytes(words), index)

    link = _Link(pipes, transcript, relay, hold)
    threads = [threading.Thread(target=link.pump, args=(role,)) for role in Role]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pipe in pipes.values():
        pipe.close()
    processes.wait()
    return transcript


@dataclass
class _Link:
    """Passes on and records what the workers send."""

    pipes: dict[Role, WorkersPipe]
    transcript: Transcript
    relay: Relay
    hold: Hold
    both: threading.Barrier = field(default_factory=lambda: threading.Barrier(len(Role)))

    def pump(self, role: Role) -> None:
        own, peer = self.pipes[role], self.pipes[role.peer]
        try:
            self._pass_on(role, own, peer)
        except (OSError, LocalProtocolError) as error:
            self.transcript.broken[role] = repr(error)  # the worker ended with something unread, or wrote what is no frame
        finally:
            peer.end_sending()  # a worker that waits for more is told, and can still say why it fails

    def _pass_on(self, role: Role, own: Pipe, peer: Pipe) -> None:
        while (header := own.receive_header()) is not None:
            self.hold(role, header.label)
            payload = bytes(own.receive_bytes(header.length))
            match header.kind:
                case Kind.READY:
                    self.both.wait(SECONDS)
                    own.send(Kind.GO)
                    self.both.wait(SECONDS)  # an opening must not overtake the peer's GO
                case Kind.OPENING:
                    self.transcript.openings[role].append(_words(payload))
                    try:
                        for label, content in self.relay(role, header.label, payload):
                            peer.send(Kind.OPENING, content, label)
                    except OSError:
                        pass  # the other worker has ended; its own message says why
                case Kind.STATS:
                    self.transcript.stats[role] = pb.WorkerStats.FromString(payload)
                case Kind.RESULT:
                    self.transcript.shares[role] = _words(payload)
                case Kind.FAILED:
                    self.transcript.failures[role] = payload.decode()
                    return


def _words(payload: bytes) -> Tensor:
    return ring.from_bytes(payload, (len(payload) // ring.WORD_BYTES,))
