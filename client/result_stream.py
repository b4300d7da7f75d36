"""What one server's answer to Denoise must look like, and what is taken out of it. Decides; does no I/O.

Checks here depend only on what the server itself chose to send (order, sizes, labels), never on the values of shares: so an
error here tells a server nothing that it did not know.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from jaxtyping import Int64
from torch import Tensor

from proto import darkroom_pb2 as pb
from protocols.errors import RemoteProtocolError
from protocols.identifiers import PushId, Role
from protocols.packing import PackingMode
from protocols.prg import KEY_BYTES
from protocols.ring import WORD_BYTES, from_bytes
from protocols.sharing import expand_seed
from protocols.unpicklable import Unpicklable

CONNECTING: Final = "connecting"
MAX_STAGE_LENGTH: Final = 80  # a stage is shown to the user


@dataclass(frozen=True)
class MessageCost:
    """One message of the evaluation at one server, as it states it. Public."""

    arithmetic_seconds: float
    waiting_seconds: float
    sent_bytes: int


def summed_messages(evaluations: Sequence[tuple[MessageCost, ...]]) -> tuple[MessageCost, ...]:
    """Message by message, of several evaluations of one network."""
    nothing = MessageCost(0.0, 0.0, 0)
    return tuple(
        MessageCost(
            sum(one.arithmetic_seconds for one in same),
            sum(one.waiting_seconds for one in same),
            sum(one.sent_bytes for one in same),
        )
        for same in zip_longest(*evaluations, fillvalue=nothing)
    )


@dataclass(frozen=True)
class ServerCost:
    """What an evaluation cost at one server, as it states itself. Public."""

    online_seconds: float
    offline_seconds: float
    sent_bytes: int
    dealt_bytes: int
    rounds: int
    peak_rss_bytes: int
    dealer_peak_rss_bytes: int
    flags: int = 0  # evaluations that were repeated, because a truncation was flagged
    messages: tuple[MessageCost, ...] = ()  # in the plan's order


@dataclass(frozen=True, eq=False)
class ServerResult(Unpicklable):
    """One server's output share, and in blind mode its packed share."""

    role: Role
    cost: ServerCost
    push_id: PushId
    engine: str
    output: Int64[Tensor, "1 h w"] = field(repr=False)
    packed: Int64[Tensor, "1 h w"] | None = field(repr=False)


class ResultReader(Unpicklable):
    """Takes the replies of one stream in order: stages, one header, then chunks of known total length."""

    def __init__(self, role: Role, packing: PackingMode, height: int, width: int) -> None:
        self._role = role
        self._blind = packing is PackingMode.BLIND
        self._shape = (1, height, width)
        self._header: pb.ResultHeader | None = None
        self._output = bytearray()
        self._packed = bytearray()
        self._limit = height * width * WORD_BYTES
        self.stage = CONNECTING
        self._begun = False

    def receive(self, reply: pb.DenoiseReply) -> None:
        """Take in one message. Raises RemoteProtocolError: out of order, or more than was announced."""
        kind = reply.WhichOneof("content")
        if kind == "stage" and self._header is None:
            self.stage = "".join(c for c in reply.stage[:MAX_STAGE_LENGTH] if c.isprintable())
            self._begun = self._begun or not self.stage.startswith("waiting")
        elif kind == "header" and self._header is None:
            self._header = self._checked(reply.header)
            self.stage = "sending the result"
        elif kind == "chunk" and self._header is not None:
            self._take(self._output, reply.chunk)
        elif kind == "packed_chunk" and self._header is not None and self._blind and self._role is Role.B:
            self._take(self._packed, reply.packed_chunk)
        else:
            raise RemoteProtocolError(f"server {self._role.value} sent {kind or 'an empty message'} out of order")

    @property
    def waiting(self) -> bool:
        """Whether the server has said nothing yet but that the session waits: no material was dealt to it.

        A session that waits again has its material.
        """
        return self._header is None and not self._begun

    @property
    def received(self) -> tuple[int, int]:
        """Bytes of shares so far, and in all."""
        packed = self._blind and self._role is Role.B
        return len(self._output) + len(self._packed), self._limit * (2 if packed else 1)

    def finish(self) -> ServerResult:
        """The result, after the stream has ended. Raises RemoteProtocolError: something is missing or malformed."""
        header = self._header
        if header is None:
            raise RemoteProtocolError(f"server {self._role.value} ended without a result, while {self.stage}")
        cost = header.cost
        return ServerResult(
            self._role,
            ServerCost(
                cost.online_seconds,
                cost.offline_seconds,
                cost.sent_bytes,
                cost.dealt_bytes,
                cost.rounds,
                cost.peak_rss_bytes,
                cost.dealer_peak_rss_bytes,
                cost.flags,
                tuple(MessageCost(m.arithmetic_seconds, m.waiting_seconds, m.sent_bytes) for m in cost.messages),
            ),
            PushId(header.push_id),
            header.engine[:MAX_STAGE_LENGTH],
            from_bytes(self._output, self._shape),
            self._packed_share(header),
        )

    def _checked(self, header: pb.ResultHeader) -> pb.ResultHeader:
        found = (header.channels, header.size.height, header.size.width)
        if found != self._shape:
            raise RemoteProtocolError(
                f"server {self._role.value} sends a result of shape {found}, not {self._shape}: is the model a denoiser?"
            )
        if not all(math.isfinite(m.arithmetic_seconds + m.waiting_seconds) for m in header.cost.messages):
            raise RemoteProtocolError(f"server {self._role.value} states times that are no numbers")
        return header

    def _take(self, into: bytearray, chunk: bytes) -> None:
        if len(into) + len(chunk) > self._limit:
            raise RemoteProtocolError(f"server {self._role.value} sends more than the {self._limit} bytes of a share")
        into += chunk

    def _packed_share(self, header: pb.ResultHeader) -> Int64[Tensor, "1 h w"] | None:
        if not self._blind:
            return None
        if self._role is Role.B:
            return from_bytes(self._packed, self._shape)
        if len(header.packed_seed) != KEY_BYTES:
            raise RemoteProtocolError(f"server A sends a packed seed of {len(header.packed_seed)} bytes, not {KEY_BYTES}")
        return expand_seed(header.packed_seed, self._shape)
