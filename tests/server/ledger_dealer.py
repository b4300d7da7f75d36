"""The dealer without sockets: what a server asks of it, answered from its real ledger."""

import threading

from proto import darkroom_pb2 as pb
from protocols import dealing
from protocols.errors import SessionBrokenError
from protocols.identifiers import Role
from server.dealer_client import Batch

SECONDS = 40


class LedgerDealer:
    """The dealer as one server calls it, on a ledger that both share."""

    def __init__(self, role, ledger):
        self.role, self.ledger = role, ledger
        self.named = []  # material to name in place of fresh material
        self.silent = False  # whether a claim is never answered

    def open_push(self, network, boots):
        return self.named.pop(0) if self.named else self.ledger[0].open_push(network, (boots.a, boots.b))

    def claim_push(self, push, network, boots):
        entry = self.ledger[0].claim_push(self.role, push, (boots.a, boots.b), network.digest)
        return dealing.push_seed(entry.key, self.role, push, network.digest)

    def open_material(self, push, plan, boots):
        material = self.ledger[0].open_batch(push, plan.height, plan.width, (boots.a, boots.b), plan.engine)
        return self.named.pop(0) if self.named else material

    def claim_material(self, material, push, plan, boots, *, begun=lambda cancel: None):
        if self.silent:
            broken_off = threading.Event()
            begun(broken_off.set)
            assert broken_off.wait(SECONDS)
            raise SessionBrokenError("the call was broken off")
        batch = self.ledger[0].claim_batch(self.role, material, push, plan.digest, (boots.a, boots.b))
        seeds = {role: dealing.session_seed(batch.key, role, material, batch.context) for role in Role}
        corrections = self._corrections(plan) if self.role is Role.B else iter(())
        return Batch(seeds[self.role], corrections, lambda: None)

    def _corrections(self, plan):
        for index, total in enumerate(plan.correction_sizes):  # fake workers do not look at them
            yield pb.Correction(label=index, offset=0, total_bytes=total, chunk=bytes(total))
