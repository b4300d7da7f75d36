"""The dealer's gRPC service. Who asks is decided by the certificate, so no server can claim the other's half."""

import threading
from collections.abc import Iterator, Mapping
from functools import partial
from time import monotonic
from typing import Final

import grpc
import structlog
import torch
from torch import Tensor

from dealer.ledger import Batch, DealingLedger, Push
from dealer.metrics import DealerMetrics
from dealer.read_ahead import ReadAhead
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.admission import Admission
from proto.calls import answering
from proto.peak_memory import peak_memory_bytes
from proto.readiness import DEALER
from proto.transport import Callers, chunks
from protocols import dealing, ring
from protocols.identifiers import BootId, MaterialId, PushId, Role
from protocols.masked_dealing import dealt_blocks
from protocols.masked_plan import MaskedPlan
from protocols.network import Network
from protocols.plan import masked_weights

# From opening to a server's claim: A's order and B's answer lie between. A session that fails there never claims.
CLAIM_SECONDS: Final = 30.0
AHEAD: Final = 16  # messages of a MiB that are dealt before they are sent: sending goes on while a convolution is computed
CALLER_ROLES: Final = {"server-a": Role.A, "server-b": Role.B}

log = structlog.get_logger("dealer")


class DealerService(rpc.DealerServicer):
    """Names, binds and gives out correlated randomness."""

    def __init__(self, callers: Callers) -> None:
        self.health_name = DEALER
        self.metrics = DealerMetrics()
        self._callers = callers
        self._admission = Admission("the dealer", {})
        self._ledger = DealingLedger()
        self._dealing = threading.Lock()  # one correlation at a time: it is arithmetic, and several at once would only take turns

    def require_ready(self) -> None:
        """The dealer calls nobody: it is ready as long as it is there."""

    def drain(self) -> None:
        """Open nothing more; halves of what was opened are still given out, so that sessions under way can end."""
        self._admission.drain()

    def wait_idle(self, seconds: float) -> bool:
        """Wait for the last call under way to end, and for the claims of what was opened a moment ago; whether that was all."""
        return self._admission.wait_idle(seconds)

    def _expect_claims(self, opened: PushId | MaterialId) -> None:
        """A dealer that stops waits for both halves of what it has opened."""
        for role in Role:
            self._admission.expect((opened, role), CLAIM_SECONDS)

    def _caller(self, context: grpc.ServicerContext, *allowed: Role) -> Role:
        names = [name for name, role in CALLER_ROLES.items() if role in allowed]
        return CALLER_ROLES[self._callers.require(context, *names)]

    def OpenPush(self, request: pb.OpenPushRequest, context: grpc.ServicerContext) -> pb.OpenPushReply:  # noqa: N802
        """Run by A."""
        with answering(context, "OpenPush", self.metrics), self._admission.place(self._caller(context, Role.A).value):
            push = self._ledger.open_push(Network.from_json(request.network), _boots(request.boot_a, request.boot_b))
            self._expect_claims(push)
            self.metrics.pushes.inc()
            log.info("push opened", push=str(push))
        return pb.OpenPushReply(push_id=str(push))

    def ClaimPush(self, request: pb.ClaimPushRequest, context: grpc.ServicerContext) -> pb.ClaimPushReply:  # noqa: N802
        """Run by A and B."""
        with answering(context, "ClaimPush", self.metrics) as call:
            role = self._caller(context, Role.A, Role.B)
            call.note(role=role.value)
            with self._admission.place(role.value, begins=False):
                push = PushId(request.push_id)
                boots = _boots(request.boot_a, request.boot_b)
                entry = self._ledger.claim_push(role, push, boots, request.network_digest)
                self._admission.come((push, role))
        return pb.ClaimPushReply(seed=dealing.push_seed(entry.key, role, push, request.network_digest))

    def OpenMaterial(  # noqa: N802
        self, request: pb.OpenMaterialRequest, context: grpc.ServicerContext
    ) -> pb.OpenMaterialReply:
        """Run by A."""
        with answering(context, "OpenMaterial", self.metrics), self._admission.place(self._caller(context, Role.A).value):
            boots = _boots(request.boot_a, request.boot_b)
            size = request.size
            push = PushId(request.push_id)
            material = self._ledger.open_batch(push, size.height, size.width, boots, request.engine)
            self._expect_claims(material)
            self.metrics.batches.inc()
            log.info("material opened", material=str(material), height=size.height, width=size.width)
        return pb.OpenMaterialReply(material_id=str(material))

    def ClaimMaterial(  # noqa: N802
        self, request: pb.ClaimMaterialRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.MaterialChunk]:
        """Run by A (a seed) and B (a seed and the corrections)."""
        started = monotonic()
        with answering(context, "ClaimMaterial", self.metrics) as call:
            role = self._caller(context, Role.A, Role.B)
            call.note(role=role.value)
            with self._admission.place(role.value, begins=False):
                material, push = MaterialId(request.material_id), PushId(request.push_id)
                call.note(material=str(material))
                boots = _boots(request.boot_a, request.boot_b)
                batch = self._ledger.claim_batch(role, material, push, request.plan_digest, boots)
                self._admission.come((material, role))
                masks = self._ledger.push(push)
                seeds = {party: dealing.session_seed(batch.key, party, material, batch.context) for party in Role}
                yield pb.MaterialChunk(seed=seeds[role])
                dealt = len(seeds[role])
                if role is Role.B:
                    for chunk in self._corrections(batch, masks, seeds):
                        dealt += len(chunk.correction.chunk)
                        yield chunk
                self.metrics.claimed(role, dealt, monotonic() - started)
                seconds = round(monotonic() - started, 3)
                log.info("material claimed", material=str(material), role=role.value, bytes=dealt, seconds=seconds)
                peak = peak_memory_bytes()
                yield pb.MaterialChunk(end=pb.MaterialEnd(dealer_peak_rss_bytes=peak))

    def _corrections(self, batch: Batch, push: Push, seeds: dict[Role, bytes]) -> Iterator[pb.MaterialChunk]:
        network = push.network
        push_seed = partial(dealing.push_seed, push.key, push=batch.push, network_digest=network.digest)
        push_seeds = [push_seed(role=role) for role in Role]
        masks = {
            name: sum((dealing.weight_mask_share(seed, position, shape) for seed in push_seeds), torch.tensor(0))
            for position, (name, shape) in enumerate(masked_weights(network, batch.plan.height, batch.plan.width).items())
        }
        with ReadAhead(self._in_turn(_pieces(batch, seeds, masks)), AHEAD) as pieces:
            yield from pieces

    def _in_turn(self, pieces: Iterator[pb.MaterialChunk]) -> Iterator[pb.MaterialChunk]:
        while True:
            with self._dealing:  # never held while a server takes its time to read
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def _pieces(batch: Batch, seeds: Mapping[Role, bytes], masks: dict[str, Tensor]) -> Iterator[pb.MaterialChunk]:
    """The corrections in messages, each made when it is asked for."""
    both = (seeds[Role.A], seeds[Role.B])
    if isinstance(batch.plan, MaskedPlan):
        sizes = batch.plan.correction_sizes
        for block in dealt_blocks(batch.plan, *both, masks):
            yield from _messages(block.label, block.start * ring.WORD_BYTES, block.words, sizes[block.label])
    else:
        for label, words in dealing.corrections(batch.plan, *both, masks):
            yield from _messages(label, 0, words, words.numel() * ring.WORD_BYTES)


def _messages(label: int, start: int, words: Tensor, total: int) -> Iterator[pb.MaterialChunk]:
    """Words from byte `start` of a correction on."""
    offset = start
    for chunk in chunks(ring.to_bytes(words)):
        message = pb.MaterialChunk()
        message.correction.label, message.correction.offset, message.correction.total_bytes = label, offset, total
        message.correction.chunk = chunk  # in place: a message that is put into another one is copied
        yield message
        offset += len(chunk)


def _boots(boot_a: str, boot_b: str) -> tuple[str, str]:
    return str(BootId(boot_a)), str(BootId(boot_b))
