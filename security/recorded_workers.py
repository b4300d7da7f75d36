"""Two real worker processes of ours, joined by a link that records, and a dealer whose seeds are handed in.

The live dealer refuses to deal one material twice (that is shown in `security.replay`). To show what a second dealing would
give away, this dealer takes its key as an argument: the same key again is the same material again. What each
worker holds and receives is kept for the attacks; `tamper` changes an opening on its way.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

from client.model_file import Model
from proto import darkroom_pb2 as pb
from protocols import dealing, ring, sharing
from protocols.dealing import PartyMaterial
from protocols.engines import MASKED, SessionPlan, session_plan
from protocols.errors import PeerUnavailableError
from protocols.fixed_point import FRAC_BITS, encode
from protocols.identifiers import MaterialId, PushId, Role
from protocols.masked_dealing import Stream, dealt_corrections
from protocols.masked_plan import MaskedPlan
from protocols.network import IMAGE_WIRE
from protocols.plan import masked_weights
from protocols.prg import Prg, derive_key, fresh_key
from server.pipe import Kind, Pipe

READY_SECONDS: Final = 120.0

# (receiver, index of the opening, the words on their way) -> the words that arrive
Tamper = Callable[[Role, int, Tensor], Tensor]


def untouched(_receiver: Role, _index: int, words: Tensor) -> Tensor:
    """No tampering."""
    return words


def encoded_weights(model: Model) -> dict[str, Int64[Tensor, "..."]]:
    """Weights and biases on the grids that the servers use."""
    return {
        name: encode(tensor, frac_bits=model.network.weight_frac_bits if name.endswith(".weight") else FRAC_BITS)
        for name, tensor in model.weights.items()
    }


@dataclass(frozen=True, eq=False)
class Dealt:
    """What a dealer with this key hands out for one push and one evaluation."""

    plan: SessionPlan
    material: MaterialId
    key: bytes = field(repr=False)
    push_seeds: Mapping[Role, bytes] = field(repr=False)
    seeds: Mapping[Role, bytes] = field(repr=False)
    masks: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def under(cls, key: bytes, model: Model, height: int, width: int, engine: str = MASKED) -> "Dealt":
        """The same key, network and size: the same material."""
        plan = session_plan(engine, model.network, height, width)
        push, material = PushId(derive_key(key, b"push").hex()[:32]), MaterialId(derive_key(key, b"material").hex()[:32])
        push_seeds = {role: dealing.push_seed(key, role, push, model.network.digest) for role in Role}
        seeds = {role: dealing.session_seed(key, role, material, b"recorded") for role in Role}
        masks = {
            name: sum((dealing.weight_mask_share(seed, position, shape) for seed in push_seeds.values()), torch.tensor(0))
            for position, (name, shape) in enumerate(masked_weights(model.network, height, width).items())
        }
        return cls(plan, material, key, push_seeds, seeds, masks)


@dataclass(frozen=True, eq=False)
class WorkerView:
    """What one server holds and receives in one evaluation: its own seeds and share, and the peer's openings."""

    role: Role
    plan: SessionPlan
    material_seed: bytes = field(repr=False)
    push_seed: bytes = field(repr=False)
    image_share: Tensor = field(repr=False)
    corrections: list[Tensor] = field(default_factory=list, repr=False)  # B only
    sent: list[Tensor] = field(default_factory=list, repr=False)
    received: list[Tensor] = field(default_factory=list, repr=False)

    def opened(self, index: int) -> Int64[Tensor, " n"]:
        """The opening as this server computed it."""
        return self.sent[index] + self.received[index]

    def own_mask(self) -> Int64[Tensor, "..."]:
        """This server's share of the mask of opening 0's first wire, as it is put on: the wire plus both shares is opened.

        On the masked engine that is the image, on the CrypTen engine what the first convolution reads.
        """
        if isinstance(self.plan, MaskedPlan):
            item = self.plan.wires[IMAGE_WIRE]
            return Prg(self.material_seed).words(item.number, Stream.OPENING, item.shape)
        return -PartyMaterial(self.role, self.plan, self.material_seed).a_share(0)

    def first_wire(self, *masks: Tensor) -> Int64[Tensor, "c h w"]:
        """Opening 0's first wire, without the masks that are given."""
        shape = self.own_mask().shape
        opened = self.opened(0)[: shape.numel()].view(shape)
        return opened - sum(masks, torch.tensor(0))


@dataclass(eq=False)
class Recording:
    """One evaluation: both views, and the output shares that go to the edge."""

    dealt: Dealt
    views: dict[Role, WorkerView]
    output: dict[Role, Tensor] = field(default_factory=dict, repr=False)
    failures: dict[Role, str] = field(default_factory=dict)
    flags: dict[Role, int] = field(default_factory=dict)  # wires with a flagged truncation; then there is no output


def record(
    model: Model,
    image: Int64[Tensor, "1 h w"],
    sigma: int,
    *,
    key: bytes,
    tamper: Tamper = untouched,
    engine: str = MASKED,
) -> Recording:
    """Deal under `key`, share the image freshly, evaluate, record. image, sigma: FRAC_BITS fractional bits.

    Raises PeerUnavailableError: a worker gave no result, though no truncation was flagged.
    """
    height, width = image.shape[1:]
    dealt = Dealt.under(key, model, height, width, engine)
    pair = sharing.share(image)
    shares = {Role.A: sharing.expand_seed(pair.seed, tuple(image.shape)), Role.B: pair.words}
    views = {role: WorkerView(role, dealt.plan, dealt.seeds[role], dealt.push_seeds[role], shares[role]) for role in Role}
    recording = Recording(dealt, views)
    workers = {role: _start_worker() for role in Role}
    try:
        jobs = _jobs(model, dealt, pair, sigma, (height, width))
        for role, (_, pipe) in workers.items():
            pipe.send(Kind.JOB, jobs[role].SerializeToString())
        for index, words in _corrections(dealt):
            views[Role.B].corrections.append(words)
            workers[Role.B][1].send(Kind.CORRECTION, ring.to_bytes(words), index)
        pipes = {role: pipe for role, (_, pipe) in workers.items()}

        def go() -> None:  # to both before either may answer: an opening must not overtake the other's GO
            for pipe in pipes.values():
                pipe.send(Kind.GO)

        both_ready = threading.Barrier(len(Role), action=go)
        threads = [threading.Thread(target=_relay, args=(role, pipes, recording, both_ready, tamper)) for role in Role]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for process, pipe in workers.values():
            pipe.close()
            process.kill()
            process.wait()
    if set(recording.output) != set(Role) and not all(recording.flags.get(role) for role in Role):
        raise PeerUnavailableError(f"a recorded evaluation gave no result: {recording.failures}")
    return recording


def _corrections(dealt: Dealt) -> Iterator[tuple[int, Tensor]]:
    """As the dealer sends them to B."""
    seeds = dealt.seeds[Role.A], dealt.seeds[Role.B]
    if isinstance(dealt.plan, MaskedPlan):
        return enumerate(dealt_corrections(dealt.plan, *seeds, dealt.masks))
    return dealing.corrections(dealt.plan, *seeds, dict(dealt.masks))


def _start_worker() -> tuple["subprocess.Popen[bytes]", Pipe]:
    ours, theirs = socket.socketpair()
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "server.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path},
        )
    return process, Pipe(ours)


def _jobs(model: Model, dealt: Dealt, pair: sharing.SharePair, sigma: int, size: tuple[int, int]) -> dict[Role, pb.WorkerJob]:
    """What each server process would tell its worker. Packing is blind: none is taken off."""
    encoded = encoded_weights(model)
    deltas = b"".join(ring.to_bytes(encoded[name].view(mask.shape) - mask) for name, mask in dealt.masks.items())
    biases = {role: b"" for role in Role}
    for name in model.network.parameter_shapes(*size):
        if name not in dealt.masks:
            seed = derive_key(dealt.key, b"bias", name.encode())  # the model's shares, as stored: the same in every session
            shared = sharing.share(encoded[name], seed=seed)
            biases[Role.A] += ring.to_bytes(sharing.expand_seed(shared.seed, tuple(encoded[name].shape)))
            biases[Role.B] += ring.to_bytes(shared.words)
    level = sharing.share(torch.tensor([sigma]))
    levels = {Role.A: int(sharing.expand_seed(level.seed, (1,))), Role.B: int(level.words)}
    peer_key = fresh_key()
    return {
        role: pb.WorkerJob(
            role=role.value,
            network=model.network.to_json(),
            size=pb.Size(height=size[0], width=size[1]),
            window=pb.Window(size=pb.Size(height=size[0], width=size[1])),
            material_id=str(dealt.material),
            material_seed=dealt.seeds[role],
            push_seed=dealt.push_seeds[role],
            deltas=deltas,
            bias_shares=biases[role],
            packing=pb.PACKING_BLIND,
            image_share=pair.seed if role is Role.A else ring.to_bytes(pair.words),
            sigma_share=levels[role],
            peer_key=peer_key,
            engine=dealt.plan.engine,
        )
        for role in Role
    }


def _relay(role: Role, pipes: Mapping[Role, Pipe], recording: Recording, both_ready: threading.Barrier, tamper: Tamper) -> None:
    """Take what one worker sends, record it, pass it on."""
    own, peer = pipes[role], pipes[role.peer]
    while (header := own.receive_header()) is not None:
        payload = bytes(own.receive_bytes(header.length))
        match header.kind:
            case Kind.READY:
                both_ready.wait(READY_SECONDS)
            case Kind.OPENING:
                words = ring.from_bytes(payload, (len(payload) // ring.WORD_BYTES,))
                arriving = tamper(role.peer, header.label, words.clone())
                recording.views[role].sent.append(words)
                recording.views[role.peer].received.append(arriving)
                peer.send(Kind.OPENING, ring.to_bytes(arriving), header.label)
            case Kind.STATS:
                recording.flags[role] = pb.WorkerStats.FromString(payload).flags
            case Kind.RESULT:
                recording.output[role] = ring.from_bytes(payload, (len(payload) // ring.WORD_BYTES,))
            case Kind.FAILED:
                recording.failures[role] = payload.decode()
                peer.close()
