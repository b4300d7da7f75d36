"""What a server asks of the dealer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import grpc

from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.status import calling
from proto.transport import CONNECT_SECONDS, Peer, wait_for_reconnection
from protocols.engines import SessionPlan
from protocols.errors import RemoteProtocolError
from protocols.identifiers import MaterialId, PushId
from protocols.network import Network
from protocols.prg import KEY_BYTES
from protocols.unpicklable import Unpicklable

DEALING_SECONDS: Final = 900.0  # the largest batch that a server takes, on a slow link


@dataclass(frozen=True)
class Boots:
    """The boot ids of both servers, to which all material is bound."""

    a: str
    b: str


@dataclass(eq=False)
class Batch(Unpicklable):
    """One server's half as it arrives: the seed at once, the corrections as a stream, the rest at its end."""

    seed: bytes = field(repr=False)
    corrections: Iterator[pb.Correction] = field(repr=False)
    cancel: Callable[[], object] = field(repr=False)  # ends the stream where the session ends before it
    dealt_bytes: int = 0
    dealer_peak_rss_bytes: int = 0


class DealerClient:
    """Run by both servers; opening is for A alone."""

    def __init__(self, channel: grpc.Channel, peer: Peer) -> None:
        self._channel = channel
        self._stub = rpc.DealerStub(channel)
        self._name = str(peer)

    def open_push(self, network: Network, boots: Boots) -> PushId:
        """Fresh weight masks. Run by server A."""
        request = pb.OpenPushRequest(network=network.to_json(), boot_a=boots.a, boot_b=boots.b)
        wait_for_reconnection(self._channel)
        with calling(self._name, "for fresh masks of the weights"):
            return PushId(self._stub.OpenPush(request, timeout=CONNECT_SECONDS).push_id)

    def claim_push(self, push: PushId, network: Network, boots: Boots) -> bytes:
        """This server's seed for the weight masks."""
        request = pb.ClaimPushRequest(push_id=str(push), boot_a=boots.a, boot_b=boots.b, network_digest=network.digest)
        wait_for_reconnection(self._channel)
        with calling(self._name, "for its half of the masks"):
            return bytes(self._stub.ClaimPush(request, timeout=CONNECT_SECONDS).seed)

    def open_material(self, push: PushId, plan: SessionPlan, boots: Boots) -> MaterialId:
        """Fresh session material. Run by server A. Raises NotFoundError where the dealer no longer knows the push."""
        size = pb.Size(height=plan.height, width=plan.width)
        request = pb.OpenMaterialRequest(push_id=str(push), size=size, boot_a=boots.a, boot_b=boots.b, engine=plan.engine)
        wait_for_reconnection(self._channel)
        with calling(self._name, "for fresh material"):
            return MaterialId(self._stub.OpenMaterial(request, timeout=CONNECT_SECONDS).material_id)

    def claim_material(
        self,
        material: MaterialId,
        push: PushId,
        plan: SessionPlan,
        boots: Boots,
        *,
        begun: Callable[[Callable[[], object]], object],
    ) -> Batch:
        """This server's half. The corrections are empty for A; drain them before reading the counts.

        begun: given what breaks the call off from another thread, before the dealer has answered.
        """
        request = pb.ClaimMaterialRequest(
            material_id=str(material), push_id=str(push), plan_digest=plan.digest, boot_a=boots.a, boot_b=boots.b
        )
        wait_for_reconnection(self._channel)
        with calling(self._name, "for its half of the material"):
            stream = self._stub.ClaimMaterial(request, timeout=DEALING_SECONDS)
            begun(stream.cancel)
            first = next(stream)
        if first.WhichOneof("content") != "seed" or len(first.seed) != KEY_BYTES:
            raise RemoteProtocolError(f"{self._name} did not begin with a seed")
        batch = Batch(seed=first.seed, corrections=iter(()), cancel=stream.cancel, dealt_bytes=KEY_BYTES)
        batch.corrections = self._corrections(stream, batch)
        return batch

    def _corrections(self, stream: Iterator[pb.MaterialChunk], batch: Batch) -> Iterator[pb.Correction]:
        with calling(self._name, "for its half of the material"):
            for message in stream:
                if message.WhichOneof("content") == "correction":
                    batch.dealt_bytes += len(message.correction.chunk)
                    yield message.correction
                elif message.WhichOneof("content") == "end":
                    batch.dealer_peak_rss_bytes = message.end.dealer_peak_rss_bytes
                    return
        raise RemoteProtocolError(f"{self._name} ended its material without saying so")
