"""Both servers of the masked engine in one process: two threads joined by queues that keep what each sent."""

import queue
import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor

from protocols import sharing
from protocols.dealing import push_seed, session_seed, weight_mask_share
from protocols.identifiers import MaterialId, PushId, Role
from protocols.masked_dealing import PartyMasks, dealt_corrections
from protocols.masked_evaluation import MaskedEvaluation, MaskedResult
from protocols.masked_plan import MaskedPlan, masked_plan
from protocols.network import Network
from protocols.plan import masked_weights
from protocols.prg import Prg, derive_key
from protocols.shared_model import MaskedWeight, SharedModel

SECONDS = 60


class QueueOpener:
    """One party's end; `sent` keeps every block, by message."""

    def __init__(self, own: "queue.Queue[Tensor]", peer: "queue.Queue[Tensor]") -> None:
        self._own, self._peer = own, peer
        self.sent: list[list[Tensor]] = []

    def begin(self, index: int, words: int) -> None:
        assert index == len(self.sent)
        self.sent.append([])

    def send(self, block: Tensor) -> None:
        self.sent[-1].append(block.clone())
        self._own.put(block.clone())

    def receive(self, shape: tuple[int, ...]) -> Tensor:
        block = self._peer.get(timeout=SECONDS)
        assert tuple(block.shape) == shape
        return block


@dataclass
class Joined:
    """A run: what both servers hold at its end, and what passed between them."""

    plan: MaskedPlan
    results: dict[Role, MaskedResult] = field(default_factory=dict)
    sent: dict[Role, list[list[Tensor]]] = field(default_factory=dict)
    seeds: dict[Role, bytes] = field(default_factory=dict)
    weight_masks: dict[str, Tensor] = field(default_factory=dict)
    corrections: list[Tensor] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    @property
    def output(self) -> Tensor:
        return sharing.reconstruct(self.results[Role.A].share, self.results[Role.B].share)

    @property
    def opened(self) -> list[Tensor]:
        """C of each message, as one row of words."""
        return [
            torch.cat([(a + b).flatten() for a, b in zip(first, second, strict=True)])
            for first, second in zip(self.sent[Role.A], self.sent[Role.B], strict=True)
        ]


def run_parties(
    network: Network, encoded: dict[str, Tensor], image: Tensor, sigma: int, *, seed: bytes, replace: list[Tensor] | None = None
) -> Joined:
    """Deal, evaluate, record; `seed` drives every random choice.

    encoded: weights as words; image: (1, h, w) words. replace: the corrections that B gets instead of the dealer's.
    """
    plan = masked_plan(network, *image.shape[1:])
    joined = Joined(plan)
    push, material = PushId(derive_key(seed, b"push").hex()[:32]), MaterialId(derive_key(seed, b"material").hex()[:32])
    joined.seeds = {role: session_seed(seed, role, material, b"context") for role in Role}
    push_seeds = {role: push_seed(seed, role, push, network.digest) for role in Role}
    shapes = masked_weights(network, *image.shape[1:])
    masks = {
        role: {name: weight_mask_share(push_seeds[role], place, shape) for place, (name, shape) in enumerate(shapes.items())}
        for role in Role
    }
    joined.weight_masks = {name: masks[Role.A][name] + masks[Role.B][name] for name in shapes}
    joined.corrections = list(dealt_corrections(plan, joined.seeds[Role.A], joined.seeds[Role.B], joined.weight_masks))
    secrets = {"image": image, "sigma": torch.full((1, 1, 1), sigma)} | {n: w for n, w in encoded.items() if n not in shapes}
    first = {name: Prg(derive_key(seed, b"share", name.encode())).words(0, 0, tuple(w.shape)) for name, w in secrets.items()}
    shares = {Role.A: first, Role.B: {name: secret - first[name] for name, secret in secrets.items()}}
    queues: dict[Role, queue.Queue[Tensor]] = {role: queue.Queue() for role in Role}

    def party(role: Role) -> None:
        try:
            weights = {
                name: MaskedWeight(encoded[name].view(shape) - joined.weight_masks[name], masks[role][name])
                for name, shape in shapes.items()
            }
            dealt = joined.corrections if replace is None else replace
            half = PartyMasks(role, joined.seeds[role], (words.clone() for words in dealt))
            evaluation = MaskedEvaluation(role, plan, SharedModel(network, weights, shares[role]), half)
            evaluation.prepare()
            opener = QueueOpener(queues[role], queues[Role.B if role is Role.A else Role.A])
            joined.results[role] = evaluation.run(shares[role]["image"], shares[role]["sigma"], opener)
            joined.sent[role] = opener.sent
        except BaseException as error:  # noqa: BLE001 - shown by the caller
            joined.failures.append(error)

    threads = [threading.Thread(target=party, args=(role,)) for role in Role]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if joined.failures:
        raise joined.failures[0]
    return joined
