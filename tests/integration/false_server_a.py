"""Server A's identity in our hands: server B dials us in A's place, and we order and send what A would not."""

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc

from client.records import ObjectRecord
from proto import darkroom_pb2 as pb
from proto import darkroom_pb2_grpc as rpc
from proto.transport import Peer, listener_credentials, listener_options, open_channel
from protocols.engines import session_plan
from protocols.identifiers import BootId
from protocols.prg import fresh_key
from security.site_access import identity
from server.order import OrderTerms, make_order
from server.share_store import ShareStore
from tests.integration.conftest import NETWORK
from tests.integration.failing_site import FailingSite

CALL_SECONDS = 30.0
Messages = Iterator[pb.PeerMessage]


class Follower:
    """One stream of server B. What gives messages is sent to B in their order."""

    def __init__(self, site: FailingSite, record: ObjectRecord, incoming: Messages) -> None:
        self._site, self._record, self._incoming = site, record, incoming
        hello = next(incoming).hello
        self._session, self._boots = hello.session_id, {"boot_a": str(BootId.fresh()), "boot_b": hello.boot_b}
        self.plan = session_plan("", NETWORK, record.height, record.width)
        header = ShareStore(site.site.folder("server-b") / "b.store" / "models").read_header("tiny")
        self._upload = pb.PushModelHeader.FromString(header).session_id
        self.masks = 0  # bytes of the opening that masks the weights
        self._push = "1" * 32  # one that nobody opened, until `masked`

    def take(self, content: str) -> pb.PeerMessage:
        """B's next message, which must be of this kind."""
        message = next(self._incoming)
        assert message.WhichOneof("content") == content
        return message

    def order(self, kind: "pb.PeerOrder.Kind", **changes: object) -> pb.PeerMessage:
        """What A would order now, but for the changes."""
        of_image = kind == pb.PeerOrder.KIND_EVALUATE
        terms = {
            "kind": kind,
            "session_id": self._session,
            "model": "tiny",
            "upload_id": self._upload,
            "object_id": str(self._record.object_id) if of_image else "",
            "plan_digest": self.plan.digest if of_image else NETWORK.digest,
        } | self._boots
        material = self._material() if of_image and self.masks else "2" * 32 if of_image else ""
        made = make_order(OrderTerms(**(terms | changes)), push_id=self._push, material_id=material, contribution=fresh_key())
        return pb.PeerMessage(order=made)

    def masking(self) -> Messages:
        """Order the masking of the weights, on masks of the dealer's; B's opening has come."""
        with self._dealer() as dealer:
            self._push = dealer.OpenPush(pb.OpenPushRequest(network=NETWORK.to_json(), **self._boots)).push_id
        yield self.order(pb.PeerOrder.KIND_MASK)
        self.take("accept")
        self.masks = self.take("opening").opening.total_bytes

    def evaluating(self) -> Messages:
        """Mask the weights and order an evaluation, which B accepts."""
        yield from self.masking()
        yield opening(0, self.masks)
        yield self.order(pb.PeerOrder.KIND_EVALUATE)
        self.take("accept")

    def _material(self) -> str:
        size = pb.Size(height=self._record.height, width=self._record.width)
        request = pb.OpenMaterialRequest(push_id=self._push, size=size, engine=self.plan.engine, **self._boots)
        with self._dealer() as dealer:
            return str(dealer.OpenMaterial(request).material_id)

    @contextlib.contextmanager
    def _dealer(self) -> Iterator[rpc.DealerStub]:
        site = self._site.site
        certificate = site.certificate("dealer", held_by="dealer").read_bytes()
        with open_channel(identity(self._site, "server-a"), Peer("dealer", address_of(self._site, "dealer"), certificate)) as way:
            yield rpc.DealerStub(way)


def opening(label: int, total: int, *, offset: int = 0, size: int | None = None) -> pb.PeerMessage:
    """A piece of an opening; the whole of it unless told otherwise. Every byte is zero."""
    chunk = bytes(total - offset if size is None else size)
    return pb.PeerMessage(opening=pb.Opening(label=label, offset=offset, total_bytes=total, chunk=chunk))


def address_of(site: FailingSite, name: str) -> str:
    """Where the true party listens, behind its lines."""
    ready = {"dealer": "dealer.ready", "server-a": "a.ready"}[name]
    return str(json.loads((site.site.folder(name) / ready).read_text())["address"])


class _PeerLink(rpc.PeerLinkServicer):
    def __init__(self, follow: Callable[[Messages], Messages]) -> None:
        self._follow = follow

    def Follow(self, messages: Messages, context: grpc.ServicerContext) -> Messages:  # noqa: N802
        yield from self._follow(messages)
        with contextlib.suppress(grpc.RpcError):  # B has broken off, as it should
            for _ in messages:
                pass


@contextlib.contextmanager
def in_place_of_server_a(site: FailingSite, record: ObjectRecord, misbehave: Callable[[Follower], Messages]) -> Iterator[None]:
    """Inside the block, B's line to A leads to us; afterwards to the true server A again."""
    server = grpc.server(futures.ThreadPoolExecutor(2), options=listener_options())
    rpc.add_PeerLinkServicer_to_server(_PeerLink(lambda messages: misbehave(Follower(site, record, messages))), server)
    known = [site.site.certificate("server-b", held_by="server-a").read_bytes()]
    port = server.add_secure_port("127.0.0.1:0", listener_credentials(identity(site, "server-a"), known))
    server.start()
    line = site.lines["peer"]
    try:
        line.repair(f"127.0.0.1:{port}")
        yield
    finally:
        line.repair(address_of(site, "server-a"))
        server.stop(0).wait()
