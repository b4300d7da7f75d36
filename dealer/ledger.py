"""What the dealer has opened and who has claimed it: every half is given out once.

Every push and every batch has a key of its own, drawn when it is opened, in RAM only. A restart forgets them all, so nothing
dealt before it can be dealt again; and a batch's key goes when both servers have claimed, so that whoever reads this memory
later cannot unmask an evaluation that is over. No sockets, no clock here.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from protocols.engines import SessionPlan, session_plan
from protocols.errors import MaterialReusedError, NotFoundError, RemoteProtocolError
from protocols.identifiers import MaterialId, PushId, Role
from protocols.network import Network
from protocols.plan import session_context
from protocols.prg import fresh_key
from protocols.unpicklable import Unpicklable

OPEN_LIMIT: Final = 256  # unclaimed batches remembered; a batch is its plan until it is claimed
PUSH_LIMIT: Final = 1024  # pushes remembered; the one least recently used goes first, and its model is masked again


@dataclass
class Push(Unpicklable):
    """One set of weight masks, bound to one run of each server."""

    network: Network
    boots: tuple[str, str]
    key: bytes = field(default_factory=fresh_key, repr=False)
    claimed: set[Role] = field(default_factory=set)


@dataclass
class Batch(Unpicklable):
    """Session material that was opened, and who has claimed a half."""

    push: PushId
    plan: SessionPlan
    boots: tuple[str, str]
    key: bytes = field(default_factory=fresh_key, repr=False)
    claimed: set[Role] = field(default_factory=set)

    @property
    def context(self) -> bytes:
        """What the seeds are bound to, beside the material id."""
        return session_context(self.push, self.plan.digest, *self.boots)


class DealingLedger:
    """Pushes and batches of this run of the dealer. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pushes: OrderedDict[PushId, Push] = OrderedDict()
        self._batches: OrderedDict[MaterialId, Batch] = OrderedDict()

    def open_push(self, network: Network, boots: tuple[str, str]) -> PushId:
        """Name fresh weight masks.

        Another run of a server has begun where the boot ids differ: what was dealt under earlier ones can never be claimed again,
        and is forgotten, keys and all.
        """
        push = PushId.fresh()
        with self._lock:
            for earlier in [name for name, entry in self._pushes.items() if entry.boots != boots]:
                del self._pushes[earlier]
            for dead in [name for name, batch in self._batches.items() if batch.boots != boots]:
                del self._batches[dead]
            self._pushes[push] = Push(network, boots)
            while len(self._pushes) > PUSH_LIMIT:
                self._pushes.popitem(last=False)
        return push

    def push(self, push: PushId) -> Push:
        """Raises NotFoundError where this run of the dealer did not open it."""
        with self._lock:
            if push not in self._pushes:
                raise NotFoundError(f"push {push} is unknown to this dealer (restarted?): the model must be masked again")
            self._pushes.move_to_end(push)
            return self._pushes[push]

    def claim_push(self, role: Role, push: PushId, boots: tuple[str, str], network_digest: bytes) -> Push:
        """Raises NotFoundError, RemoteProtocolError (bound to something else), MaterialReusedError (claimed before)."""
        entry = self.push(push)
        if entry.boots != boots or entry.network.digest != network_digest:
            raise RemoteProtocolError(f"push {push} is bound to other servers' runs or another network")
        with self._lock:
            _claim(entry.claimed, role, f"push {push}")
        return entry

    def open_batch(self, push: PushId, height: int, width: int, boots: tuple[str, str], engine: str = "") -> MaterialId:
        """Name fresh session material. Raises NotFoundError, RemoteProtocolError, NetworkDescriptionError."""
        entry = self.push(push)
        if entry.boots != boots:
            raise RemoteProtocolError(f"push {push} belongs to another run of the servers")
        plan = session_plan(engine, entry.network, height, width)
        material = MaterialId.fresh()
        with self._lock:
            self._batches[material] = Batch(push, plan, boots)
            while len(self._batches) > OPEN_LIMIT:
                self._batches.popitem(last=False)
        return material

    def claim_batch(self, role: Role, material: MaterialId, push: PushId, plan_digest: bytes, boots: tuple[str, str]) -> Batch:
        """Raises NotFoundError, RemoteProtocolError (bound to something else), MaterialReusedError (claimed before)."""
        with self._lock:
            batch = self._batches.get(material)
            if batch is None:
                raise NotFoundError(f"material {material} is unknown to this dealer, or was claimed by both servers")
            if (batch.push, batch.plan.digest, batch.boots) != (push, plan_digest, boots):
                raise RemoteProtocolError(f"material {material} is bound to another push, plan or run of the servers")
            _claim(batch.claimed, role, f"material {material}")
            if len(batch.claimed) == len(Role):
                del self._batches[material]
            return batch


def _claim(claimed: set[Role], role: Role, what: str) -> None:
    if role in claimed:
        raise MaterialReusedError(f"{what} was claimed by server {role.value} before; nothing is dealt twice")
    claimed.add(role)
