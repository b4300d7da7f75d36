"""Server B's identity in our hands: it dials the real server A, accepts what A orders, and then misbehaves.

Nothing here is possible without B's private key: what is shown is what a server B that deviates, or that was set back to an
earlier state, can ask of A and of the dealer.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import grpc

from client.records import ObjectRecord
from darkroom.simulation import Simulation
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.transport import open_channel
from protocols.engines import session_plan
from protocols.errors import RemoteProtocolError
from protocols.identifiers import BootId, Role, SessionId
from protocols.network import Network
from protocols.prg import fresh_key
from security.site_access import identity, peer
from server.order import order_digest

CALL_SECONDS: Final = 30.0
SIGMA_SHARE: Final = 6554  # 0.1 at 16 fractional bits; which level it is does not matter here


def denoise_request(
    record: ObjectRecord, role: Role, session: SessionId, model: str, *, sigma_share: int = SIGMA_SHARE, engine: str = ""
) -> pb.DenoiseRequest:
    """What the edge sends to one server."""
    return pb.DenoiseRequest(
        session_id=str(session),
        object_id=str(record.object_id),
        model=model,
        grant=record.grant,
        noise_key=record.keys.of(role),
        sigma_share=sigma_share,
        engine=engine,
    )


class FalseServerB:
    """One session's stream to server A, and B's line to the dealer."""

    def __init__(
        self, cluster: Simulation, session: SessionId, network: Network, engine: str = "", *, boot: BootId | None = None
    ) -> None:
        """boot: of another session of ours, whose masks are then in force."""
        self.session = session
        self.boot = boot or BootId.fresh()
        self._network, self._engine = network, engine
        self._channel = open_channel(identity(cluster, "server-b"), peer(cluster, "server-a"))
        self._dealer = open_channel(identity(cluster, "server-b"), peer(cluster, "dealer"))
        self._condition = threading.Condition()
        self._out: list[pb.PeerMessage] = [pb.PeerMessage(hello=pb.PeerHello(session_id=str(session), boot_b=str(self.boot)))]
        self._done = False
        self.pieces: Counter[tuple[int, int]] = Counter()  # how often A sent each piece of an opening: (label, offset)
        self.incoming = rpc.PeerLinkStub(self._channel).Follow(self._messages(), timeout=CALL_SECONDS)

    def __enter__(self) -> "FalseServerB":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _messages(self) -> Iterator[pb.PeerMessage]:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._out or self._done)
                if not self._out:
                    return
                message = self._out.pop(0)
            yield message

    def send(self, message: pb.PeerMessage) -> None:
        """Any message, at any time."""
        with self._condition:
            self._out.append(message)
            self._condition.notify()

    def accept(self, kind: "pb.PeerOrder.Kind") -> pb.PeerOrder:
        """Take A's next order, which must be of this kind. Raises RemoteProtocolError."""
        order: pb.PeerOrder = next(self.incoming).order
        if order.kind != kind:
            raise RemoteProtocolError(f"server A ordered {order.kind}, where {kind} was due")
        self.send(pb.PeerMessage(accept=pb.PeerAccept(order_digest=order_digest(order), contribution=fresh_key())))
        return order

    def follow_masking(self) -> None:
        """Masking orders come first, since our boot id is new; our summand of the deltas is zero."""
        order = self.accept(pb.PeerOrder.KIND_MASK)
        claim = pb.ClaimPushRequest(
            push_id=order.push_id, boot_a=order.boot_a, boot_b=order.boot_b, network_digest=self._network.digest
        )
        rpc.DealerStub(self._dealer).ClaimPush(claim, timeout=CALL_SECONDS)
        first = piece = next(self.incoming).opening
        while piece.offset + len(piece.chunk) < piece.total_bytes:
            piece = next(self.incoming).opening
        self.opening(0, first.total_bytes // 8, pieces_of=len(first.chunk))

    def claim(self, order: pb.PeerOrder, height: int, width: int, **changes: str) -> list[pb.MaterialChunk]:
        """Claim B's half of the ordered material; `changes` are of the terms. Raises grpc.RpcError."""
        terms = {
            "material_id": order.material_id,
            "push_id": order.push_id,
            "boot_a": order.boot_a,
            "boot_b": order.boot_b,
        } | changes
        digest = session_plan(self._engine, self._network, height, width).digest
        claim = pb.ClaimMaterialRequest(plan_digest=digest, **terms)
        return list(rpc.DealerStub(self._dealer).ClaimMaterial(claim, timeout=CALL_SECONDS))

    def ready(self) -> None:
        """Say that we hold our material."""
        self.send(pb.PeerMessage(ready=pb.PeerReady()))

    def opening(self, label: int, words: int, fill: int = 0, pieces_of: int = 1 << 20) -> None:
        """Send a whole opening, in pieces of so many bytes at most; every byte of it is `fill`."""
        total = 8 * words
        for offset in range(0, total, pieces_of):
            chunk = bytes([fill]) * min(pieces_of, total - offset)
            self.send(pb.PeerMessage(opening=pb.Opening(label=label, offset=offset, total_bytes=total, chunk=chunk)))

    def receive_opening(self, label: int) -> None:
        """Take what A sends until its opening `label` is whole. Raises grpc.RpcError."""
        for message in self.incoming:
            if message.WhichOneof("content") == "opening":
                piece = message.opening
                self.pieces[piece.label, piece.offset] += 1
                if piece.label == label and piece.offset + len(piece.chunk) == piece.total_bytes:
                    return

    def drain(self) -> None:
        """Take what A still sends, until it breaks off."""
        try:
            for message in self.incoming:
                if message.WhichOneof("content") == "opening":
                    self.pieces[message.opening.label, message.opening.offset] += 1
        except grpc.RpcError:
            pass  # why A has broken off is in its answer to the edge

    def close(self) -> None:
        """End the stream."""
        with self._condition:
            self._done = True
            self._condition.notify()
        self.incoming.cancel()
        self._channel.close()
        self._dealer.close()


class EdgeCall:
    """The edge's call to server A alone, in a thread of its own; its status when it ends."""

    def __init__(self, cluster: Simulation, request: pb.DenoiseRequest) -> None:
        self._cluster, self._request = cluster, request
        self.status: grpc.StatusCode | None = None
        self.details = ""
        self.stages: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with open_channel(identity(self._cluster, "edge"), peer(self._cluster, "server-a")) as channel:
            try:
                for reply in rpc.ServerStub(channel).Denoise(self._request, timeout=CALL_SECONDS):
                    self._see(reply)
                self.status = grpc.StatusCode.OK
            except grpc.RpcError as error:
                self.status, self.details = error.code(), error.details()

    def _see(self, reply: pb.DenoiseReply) -> None:
        with self._changed:
            self.stages += [reply.stage] if reply.WhichOneof("content") == "stage" else []
            self._changed.notify_all()

    def reaches(self, stage: str) -> bool:
        """Whether the session comes to a stage that begins so."""
        with self._changed:
            return self._changed.wait_for(lambda: any(seen.startswith(stage) for seen in self.stages), CALL_SECONDS)

    def join(self) -> None:
        """Wait until the call has ended."""
        self._thread.join(CALL_SECONDS)
