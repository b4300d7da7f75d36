"""The ring words in a session's views: what each party received, held and sent, and the best that it can make of an opening.

An opening is the sum (or XOR) of both servers' summands, known to both. Each can also take its own share of the mask off:
eps + a_A, at A, on the CrypTen engine; c - l_A on the masked one. With the other's seed that becomes the secret itself, which is
the twin of the leaked seed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from proto import darkroom_pb2 as pb
from protocols import ring
from protocols.dealing import PartyMaterial
from protocols.engines import session_plan
from protocols.errors import LocalProtocolError
from protocols.identifiers import Role
from protocols.masked_dealing import Stream
from protocols.masked_evaluation import row_blocks
from protocols.masked_plan import MaskedPlan, ReluBitsItem, ReluSignItem
from protocols.network import Network
from protocols.plan import AndTriple, Correlation, Plan, SharedBit
from protocols.prg import Prg
from protocols.sharing import expand_seed
from security.recording import HELD, RECEIVED, SENT, Entry
from security.two_sample import Words
from server.worker import unpacked_share

PARTY: Final[Mapping[Role, str]] = {Role.A: "server-a", Role.B: "server-b"}


@dataclass(frozen=True, eq=False)
class Item:
    """One array of words in a session, and who has it."""

    words: Tensor = field(repr=False)
    seen_by: tuple[str, ...]
    bits: bool = False


def session_items(view: Mapping[str, Sequence[Entry]], *, leaked: bool = False) -> dict[str, Item]:
    """Every array of one session. leaked: both servers know both material seeds (the twin)."""
    jobs = {role: next(entry.message() for entry in view[PARTY[role]] if entry.direction == HELD) for role in Role}
    network = Network.from_json(jobs[Role.A].network)
    plan = session_plan(jobs[Role.A].engine, network, jobs[Role.A].size.height, jobs[Role.A].size.width)
    items: dict[str, Item] = {}
    for role in Role:
        items |= _server_items(view[PARTY[role]], jobs[role], role)
    summands = {role: _openings(view[PARTY[role]], SENT) for role in Role}
    for index in range(plan.rounds):
        pair = {role: summands[role][index] for role in Role}
        if isinstance(plan, MaskedPlan):
            items |= _message_items(index, pair, jobs, plan, leaked)
        else:
            items |= _opening_items(index, plan.correlations[index], pair, jobs, plan, leaked)
    for label, words in _corrections(view["server-b"]).items():
        items[f"correction {label}"] = Item(words, ("server-b", "dealer"))
    return items


def _server_items(entries: Sequence[Entry], job: pb.WorkerJob, role: Role) -> dict[str, Item]:
    party, name = (PARTY[role],), f"{role.value}'s"
    size = (1, job.size.height, job.size.width)
    stored = expand_seed(job.image_share, size) if role is Role.A else _from_bytes(job.image_share)
    output = b"".join(
        entry.message().chunk for entry in entries if entry.link == "edge Denoise" and entry.direction == SENT and entry.payload
    )
    return {
        f"{name} stored share": Item(stored, party),
        f"{name} unpacked share": Item(unpacked_share(job, role), party),
        f"{name} noise key": Item(_from_bytes(job.noise_key), party),
        f"{name} share of the noise level": Item(torch.tensor([job.sigma_share]), party),
        f"{name} material seed": Item(_from_bytes(job.material_seed), (*party, "dealer")),
        f"{name} key with the other server": Item(_from_bytes(job.peer_key), party),
        f"{name} output share": Item(_from_bytes(output), party),
    }


def _opening_items(
    index: int,
    item: Correlation,
    summands: Mapping[Role, Tensor],
    jobs: Mapping[Role, pb.WorkerJob],
    plan: Plan,
    leaked: bool,
) -> dict[str, Item]:
    both = tuple(PARTY.values())
    binary, bits = isinstance(item, AndTriple | SharedBit), isinstance(item, SharedBit)
    a, b = summands[Role.A], summands[Role.B]
    opened = a ^ b if binary else a + b
    items = {
        f"A's summand of opening {index}": Item(a, both, bits),
        f"B's summand of opening {index}": Item(b, both, bits),
        f"opening {index}": Item(opened, both, bits),
    }
    masks = {role: PartyMaterial(role, plan, jobs[role].material_seed).a_share(index).flatten() for role in Role}
    first = opened[: masks[Role.A].numel()]
    for role in Role:
        known = [masks[role], *([masks[role.peer]] if leaked else [])]
        bare = first
        for mask in known:
            bare = bare ^ mask if binary else bare + mask
        items[f"opening {index} less {role.value}'s mask"] = Item(bare, (PARTY[role],), bits)
    return items


def _message_items(
    index: int, summands: Mapping[Role, Tensor], jobs: Mapping[Role, pb.WorkerJob], plan: MaskedPlan, leaked: bool
) -> dict[str, Item]:
    """One message of the masked engine: c = y + r of its wires (XOR for the bits of a ReLU), less this server's own part of r.

    leaked: less both parts. The part is its share of an input's mask, or of e, what its seed gives of a product's mask.
    """
    both = tuple(PARTY.values())
    a, b = summands[Role.A], summands[Role.B]
    bits = isinstance(plan.levels[index].items[0], ReluBitsItem | ReluSignItem)  # opened by XOR, in a message of their own
    opened = a ^ b if bits else a + b
    items = {
        f"A's summand of opening {index}": Item(a, both),
        f"B's summand of opening {index}": Item(b, both),
        f"opening {index}": Item(opened, both),
    }
    masks = {role: _own_parts(plan, index, jobs[role].material_seed) for role in Role}
    for role in Role:
        known = [masks[role], masks[role.peer]] if leaked else [masks[role]]
        bare = opened
        for mask in known:
            bare = bare ^ mask if bits else bare - mask
        items[f"opening {index} less {role.value}'s mask"] = Item(bare, (PARTY[role],))
    return items


def _own_parts(plan: MaskedPlan, index: int, seed: bytes) -> Tensor:
    """What one server's seed gives of the masks of a message, in the order of its words.

    Raises LocalProtocolError: a wire is sent in several blocks, whose order this does not know.
    """
    parts = []
    for item in plan.levels[index].items:
        if len(list(row_blocks(item))) > 1:
            raise LocalProtocolError(f"{item.layer} is too large for this evaluation")
        parts.append(Prg(seed).words(item.number, Stream.OPENING, item.shape).flatten())
    return torch.cat(parts)


def _openings(entries: Sequence[Entry], direction: str) -> list[Tensor]:
    """The summands that this server sent (or received) in plan order."""
    pieces: dict[int, list[bytes]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "PeerMessage" and entry.direction == direction:
            message = entry.message()
            if message.WhichOneof("content") == "opening":
                pieces[message.opening.label].append(message.opening.chunk)
    return [_from_bytes(b"".join(pieces[label])) for label in sorted(pieces)]


def _corrections(entries: Sequence[Entry]) -> dict[int, Tensor]:
    pieces: dict[int, list[bytes]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "MaterialChunk" and entry.direction == RECEIVED:
            message = entry.message()
            if message.WhichOneof("content") == "correction":
                pieces[message.correction.label].append(message.correction.chunk)
    return {label: _from_bytes(b"".join(chunks)) for label, chunks in pieces.items()}


def _from_bytes(content: bytes) -> Tensor:
    return ring.from_bytes(content, (len(content) // ring.WORD_BYTES,))


@dataclass
class Samples:
    """The items of many sessions, stacked: what a test takes."""

    words: dict[str, Words] = field(repr=False)  # [session, word]
    seen_by: dict[str, tuple[str, ...]]
    bits: frozenset[str]

    @classmethod
    def of(cls, sessions: Sequence[Mapping[str, Item]]) -> "Samples":
        """Stack the sessions; openings also as differences from the first session's, which show a mask that is used again.

        The first session is the reference and no sample.
        """
        reference, *rest = sessions
        words: dict[str, Words] = {}
        seen_by: dict[str, tuple[str, ...]] = {}
        for name, item in reference.items():
            words[name] = np.stack([session[name].words.flatten().numpy() for session in rest])
            seen_by[name] = item.seen_by
            if name.startswith("opening") and "less" not in name:
                change = f"{name}, change since the first session"
                start = item.words.flatten().numpy()
                words[change] = words[name] ^ start if item.bits else words[name] - start
                seen_by[change] = item.seen_by
        bits = frozenset(name for name in words if reference[name.split(", change")[0]].bits)
        return cls(words, seen_by, bits)
