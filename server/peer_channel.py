"""The A-B link of one session: messages both ways over one gRPC stream, and the place where A finds B's stream.

No resume and no retry: a broken link ends the session and burns its material.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final

import grpc

from proto import darkroom_pb2 as pb
from proto.status import error_of
from protocols.errors import (
    BusyError,
    LocalProtocolError,
    PeerUnavailableError,
    RemoteProtocolError,
    SessionBrokenError,
)
from protocols.identifiers import Role, SessionId

QUEUED_MESSAGES: Final = 8  # of about 1 MiB: enough to keep the stream busy, little enough to bound memory
LOOK_SECONDS: Final = 1.0  # how often a thread that waits for room, or for a message, sees that the channel was closed
STALL_SECONDS: Final = 120.0  # a peer that takes nothing for this long is dead
TRY_AGAIN: Final = "if no other error says why, see its log, and try again"
WAITING_LIMIT: Final = 64  # streams of B that A has not asked for yet


class PeerChannel:
    """One end of the stream; one thread may send while another receives."""

    def __init__(self, peer: Role, boot: str = "", address: str = "") -> None:
        """boot: the peer's boot id, where its hello has told us. address: where we dial it, if we do."""
        self.boot = boot
        self._peer = f"server {peer.value} at {address}" if address else f"server {peer.value}"
        self._outgoing: queue.Queue[pb.PeerMessage | None] = queue.Queue(maxsize=QUEUED_MESSAGES)
        self._incoming: Iterator[pb.PeerMessage] | None = None
        self._cancel: Callable[[], object] | None = None
        self._closed = threading.Event()

    def attach(self, incoming: Iterator[pb.PeerMessage], cancel: Callable[[], object] | None = None) -> None:
        """Say where the peer's messages come from, and how to break off the call that carries them."""
        self._incoming = incoming
        self._cancel = cancel

    def outgoing(self) -> Iterator[pb.PeerMessage]:
        """What gRPC sends; ends when the channel closes, after everything queued."""
        while True:
            try:
                message = self._outgoing.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if self._closed.is_set():
                    return
                continue
            if message is None:
                return
            yield message

    def send(self, message: pb.PeerMessage) -> None:
        """Queue a message. Raises SessionBrokenError: the link is closed. PeerUnavailableError: the peer takes nothing."""
        waited = 0.0
        while not self._closed.is_set():
            try:
                self._outgoing.put(message, timeout=LOOK_SECONDS)
            except queue.Full:
                waited += LOOK_SECONDS
                if waited >= STALL_SECONDS:
                    raise PeerUnavailableError(f"{self._peer} has taken nothing for {STALL_SECONDS:.0f} s") from None
            else:
                return
        raise SessionBrokenError(f"the link to {self._peer} is closed; {TRY_AGAIN}")

    def receive(self) -> pb.PeerMessage:
        """The next message. Raises SessionBrokenError: the link ended or broke; or what the peer answered instead."""
        if self._incoming is None:
            raise LocalProtocolError("the channel is not attached")
        try:
            return next(self._incoming)
        except StopIteration as end:
            raise SessionBrokenError(f"{self._peer} ended the link of this session; {TRY_AGAIN}") from end
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call):
                raise error_of(self._peer, error, "for this session's order") from error
            raise SessionBrokenError(f"the link to {self._peer} broke; {TRY_AGAIN}") from error  # at A: B's call has gone

    def expect(self, content: str) -> pb.PeerMessage:
        """The next message, which must be of this kind. Raises RemoteProtocolError."""
        message = self.receive()
        kind = message.WhichOneof("content") or "nothing"
        if kind != content:
            raise RemoteProtocolError(f"{self._peer} sent {kind} where {content} was due")
        return message

    def close(self) -> None:
        """End the stream after what is queued; a second call does nothing."""
        self._closed.set()
        try:
            self._outgoing.put_nowait(None)
        except queue.Full:
            pass  # `outgoing` sees the flag

    def finish(self) -> None:
        """End our direction, and wait until A has ended its own: only then has everything arrived. Run by server B."""
        self.close()
        try:
            while True:
                self.receive()
        except SessionBrokenError:
            pass  # A has ended the call, as it should; had it failed, A's own answer to the edge says so

    def abort(self) -> None:
        """Break the link off at once; a thread that waits for a message is woken."""
        self.close()
        if self._cancel is not None:
            self._cancel()


class MeetingPoint:
    """Where A's request from the edge and B's stream for the same session meet. Used by server A."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._arrived: dict[SessionId, PeerChannel] = {}
        self._draining = False

    def arrive(self, session: SessionId, channel: PeerChannel) -> None:
        """B's stream for this session is here. Raises BusyError, RemoteProtocolError."""
        with self._condition:
            if self._draining:
                channel.close()
                return
            if session in self._arrived:
                raise RemoteProtocolError(f"server B opened session {session} twice")
            if len(self._arrived) >= WAITING_LIMIT:
                raise BusyError(f"{WAITING_LIMIT} sessions of server B are waiting already")
            self._arrived[session] = channel
            self._condition.notify_all()

    def leave(self, session: SessionId) -> None:
        """B's stream has ended."""
        with self._condition:
            self._arrived.pop(session, None)

    def expire(self, session: SessionId) -> None:
        """Send B's stream away if nobody has asked for it: the edge called B alone."""
        with self._condition:
            channel = self._arrived.pop(session, None)
        if channel is not None:
            channel.close()

    def drain(self) -> None:
        """No session begins any more: send away what waits for one, and what comes."""
        with self._condition:
            self._draining = True
            arrived = list(self._arrived.values())
            self._arrived.clear()
        for channel in arrived:
            channel.close()

    def wake(self) -> None:
        """Whoever waits looks again whether its session goes on."""
        with self._condition:
            self._condition.notify_all()

    def take(self, session: SessionId, seconds: float, given_up: Callable[[], bool] = lambda: False) -> PeerChannel:
        """Wait for B's stream. given_up: whether the session has ended meanwhile; looked at after `wake`.

        Raises PeerUnavailableError, SessionBrokenError.
        """
        with self._condition:
            if not self._condition.wait_for(lambda: session in self._arrived or given_up(), seconds):
                raise PeerUnavailableError(
                    f"server B did not join the session within {seconds:.0f} s: is it running, and can it reach server A?"
                )
            if given_up():
                raise SessionBrokenError("the session was cancelled before server B joined")
            return self._arrived.pop(session)
