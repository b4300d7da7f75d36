"""What a server asks of the dealer, without sockets: a claim that is not answered can be broken off from another thread."""

import threading

import pytest

from proto.transport import Identity, open_channel
from protocols.identifiers import MaterialId, PushId
from protocols.layers import Conv
from protocols.network import IMAGE_WIRE, Network
from protocols.plan import plan_for
from server import dealer_client
from server.dealer_client import Boots, DealerClient
from tests.server import test_service

peer = test_service.peer
SECONDS = 20


class Cancelled(Exception):
    """Stands for what gRPC raises."""


class SilentStream:
    """A call that is never answered."""

    def __init__(self):
        self.over = threading.Event()
        self.cancel = self.over.set

    def __next__(self):
        assert self.over.wait(SECONDS), "nobody broke it off"
        raise Cancelled


class SilentStub:
    def ClaimMaterial(self, request, timeout):  # noqa: N802
        return SilentStream()


def test_a_claim_is_broken_off_before_the_dealer_has_answered(peer, monkeypatch):
    monkeypatch.setattr(dealer_client, "wait_for_reconnection", lambda channel: None)
    with open_channel(Identity(peer.certificate, b"no key: no handshake is made here"), peer) as channel:
        client = DealerClient(channel, peer)
    monkeypatch.setattr(client, "_stub", SilentStub())
    plan = plan_for(Network((Conv("c", IMAGE_WIRE, 2, 3, padding=1),)), 8, 9)
    material, push, boots = MaterialId("a" * 32), PushId("b" * 32), Boots("c" * 32, "d" * 32)
    with pytest.raises(Cancelled):
        client.claim_material(material, push, plan, boots, begun=lambda cancel: threading.Timer(0.1, cancel).start())
