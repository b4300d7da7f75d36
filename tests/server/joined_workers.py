"""Two real worker processes joined by a fake link that records everything each of them receives."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from proto import darkroom_pb2 as pb
from protocols import dealing, ring, sharing
from protocols.fixed_point import FRAC_BITS, encode
from protocols.identifiers import MaterialId, PushId, Role
from protocols.network import Network
from protocols.plan import masked_weights, plan_for
from protocols.prg import Prg, derive_key
from server.pipe import Kind, Pipe


def encoded_weights(network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights on the grids that the servers use."""
    return {
        name: encode(tensor, frac_bits=network.weight_frac_bits if name.endswith(".weight") else FRAC_BITS)
        for name, tensor in weights.items()
    }


@dataclass
class Transcript:
    """What a run showed: the output shares, and per opening the words that each worker sent."""

    shares: dict[Role, Tensor] = field(default_factory=dict)
    stats: dict[Role, pb.WorkerStats] = field(default_factory=dict)
    openings: dict[Role, list[Tensor]] = field(default_factory=lambda: {Role.A: [], Role.B: []})
    corrections: list[Tensor] = field(default_factory=list)
    failures: dict[Role, str] = field(default_factory=dict)
    image_shares: dict[Role, Tensor] = field(default_factory=dict)

    @property
    def output(self) -> Tensor:
        return sharing.reconstruct(self.shares[Role.A], self.shares[Role.B])


Tamper = Callable[[Role, int, bytes], bytes]


def start_worker() -> tuple[subprocess.Popen[bytes], Pipe]:
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-m", "server.worker", str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    return process, Pipe(ours)


def run_joined(
    network: Network,
    weights: dict[str, Tensor],
    image: Tensor,
    sigma: int,
    *,
    seed: bytes,
    tamper_share: Callable[[Role, Tensor], Tensor] = lambda _, share: share,
    tamper_seed: Callable[[Role, bytes], bytes] = lambda _, material: material,
) -> Transcript:
    """Deal, evaluate and record. `seed` drives every random choice, so that a run repeats exactly.

    image: (1, h, w) words. The image share of A is a seed's expansion, B's the difference; packing is blind (none taken off).
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
    image_pair = sharing.share(image, seed=derive_key(seed, b"image"))
    transcript = Transcript()
    transcript.image_shares = {Role.A: sharing.expand_seed(image_pair.seed, tuple(image.shape)), Role.B: image_pair.words}
    sigma_share = int(Prg(derive_key(seed, b"sigma")).words(0, 0, (1,)))
    workers = {role: start_worker() for role in Role}
    for role, (_, pipe) in workers.items():
        biases = []
        for label, name in enumerate(bias_names):
            share_a = Prg(bias_seed).words(label, 0, tuple(encoded[name].shape))
            biases.append(share_a if role is Role.A else encoded[name] - share_a)
        other = torch.tensor(sigma) - torch.tensor(sigma_share)
        job = pb.WorkerJob(
            role=role.value,
            network=network.to_json(),
            size=pb.Size(height=height, width=width),
            material_id=str(material),
            material_seed=tamper_seed(role, seeds[role]),
            push_seed=push_seeds[role],
            deltas=b"".join(map(ring.to_bytes, deltas)),
            bias_shares=b"".join(map(ring.to_bytes, biases)),
            packing=pb.PACKING_BLIND,
            image_share=image_pair.seed if role is Role.A else ring.to_bytes(image_pair.words),
            sigma_share=sigma_share if role is Role.A else int(other),
            peer_key=derive_key(seed, b"peer"),
        )
        pipe.send(Kind.JOB, job.SerializeToString())
    for index, words in dealing.corrections(plan, seeds[Role.A], seeds[Role.B], masks):
        transcript.corrections.append(words)
        workers[Role.B][1].send(Kind.CORRECTION, ring.to_bytes(words), index)

    both_ready = threading.Barrier(len(Role))
    threads = [threading.Thread(target=_pump, args=(role, workers, transcript, both_ready)) for role in Role]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process, pipe in workers.values():
        pipe.close()
        process.wait(10)
    return transcript


def _pump(
    role: Role,
    workers: dict[Role, tuple[subprocess.Popen[bytes], Pipe]],
    transcript: Transcript,
    both_ready: threading.Barrier,
) -> None:
    own, peer = workers[role][1], workers[role.peer][1]
    while (header := own.receive_header()) is not None:
        payload = bytes(own.receive_bytes(header.length))
        match header.kind:
            case Kind.READY:
                both_ready.wait(60)
                own.send(Kind.GO)
            case Kind.OPENING:
                transcript.openings[role].append(_words(payload))
                peer.send(Kind.OPENING, payload, header.label)
            case Kind.STATS:
                transcript.stats[role] = pb.WorkerStats.FromString(payload)
            case Kind.RESULT:
                transcript.shares[role] = _words(payload)
            case Kind.FAILED:
                transcript.failures[role] = payload.decode()
                peer.close()


def _words(payload: bytes) -> Tensor:
    return ring.from_bytes(payload, (len(payload) // ring.WORD_BYTES,))
