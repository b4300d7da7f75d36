"""Passing on: the dealer's corrections to the worker, openings between worker and peer, in pieces as they come.

What is passed on is checked against the plan (label, offset, size), so that neither dealer nor peer can make a worker wait for
what never comes. Run by both servers.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from proto import darkroom_pb2 as pb
from proto.transport import CHUNK_BYTES
from protocols.engines import SessionPlan
from protocols.errors import DarkroomError, LocalProtocolError, PeerUnavailableError, RemoteProtocolError
from server.peer_channel import PeerChannel
from server.pipe import Kind, Pipe

WORKER_ENDED: Final = (
    "the worker process ended in the middle of an evaluation: out of memory? Its last lines are in this server's log"
)


def relay_corrections(corrections: Iterator[pb.Correction], pipe: Pipe, due: Sequence[int]) -> None:
    """Dealer to worker, piece by piece. due: bytes of each correction in plan order; nothing at A.

    Raises RemoteProtocolError where the dealer does not send exactly that: the worker would wait for the rest for ever.
    """
    label, offset, total = -1, 0, 0
    for piece in corrections:
        if offset == total:
            label, offset, total = label + 1, 0, due[label + 1] if label + 1 < len(due) else 0
        if (piece.label, piece.offset, piece.total_bytes) != (label, offset, total):
            raise RemoteProtocolError(
                f"the dealer sent bytes {piece.offset}.. of {piece.total_bytes} of correction {piece.label}, "
                f"where bytes {offset}.. of {total} of correction {label} were due"
            )
        chunk = piece.chunk  # a copy each time
        if not chunk or offset + len(chunk) > total:
            raise RemoteProtocolError(f"correction {label} of the dealer has a piece of {len(chunk)} bytes")
        if offset == 0:
            pipe.send_header(Kind.CORRECTION, label, total)
        pipe.send_bytes(chunk)
        offset += len(chunk)
    if (label + 1, offset) != (len(due), total):
        raise RemoteProtocolError(f"the dealer's corrections ended at byte {offset} of number {label}; {len(due)} were due")


def expect(pipe: Pipe, kind: Kind) -> bytes:
    """The worker's next frame, which must be of this kind. Raises PeerUnavailableError, RemoteProtocolError."""
    header = pipe.receive_header()
    if header is None:
        raise PeerUnavailableError(WORKER_ENDED)
    payload = bytes(pipe.receive_bytes(header.length))
    if header.kind is Kind.FAILED:
        raise RemoteProtocolError(f"the evaluation failed: {payload.decode()}")
    if header.kind is not kind:
        raise LocalProtocolError(f"the worker sent {header.kind.name} where {kind.name} was due")
    return payload


def relay_openings(pipe: Pipe, channel: PeerChannel, plan: SessionPlan) -> tuple[pb.WorkerStats, bytes]:
    """Worker to peer in this thread, peer to worker in another, until the worker has its result.

    The result is empty where a truncation was flagged (`WorkerStats.flags`): such a share is never released. After a failure the
    link is broken off. The other thread has ended in either case: who closes the pipe does not close it under its hands.
    """
    failures: list[DarkroomError] = []

    def inbound() -> None:
        try:
            for label in range(plan.rounds):
                for offset, total, chunk in opening_chunks(channel, label, plan.opened_words(label) * 8):
                    if offset == 0:
                        pipe.send_header(Kind.OPENING, label, total)
                    pipe.send_bytes(chunk)
        except DarkroomError as error:
            failures.append(error)
            pipe.interrupt()
        except OSError:
            pipe.interrupt()  # the worker has ended; the other thread says why

    receiver = threading.Thread(target=inbound, name="openings", daemon=True)
    receiver.start()
    with ExitStack() as failing:
        failing.callback(receiver.join)
        failing.callback(channel.abort)  # wakes it where it waits for the peer,
        failing.callback(pipe.interrupt)  # and where it waits for the worker
        try:
            result = _relay_outbound(pipe, channel)
        except (DarkroomError, OSError) as error:
            if failures:
                raise failures[0] from error  # the link broke first, then the worker
            raise
        failing.pop_all()
    receiver.join()
    return result


def _relay_outbound(pipe: Pipe, channel: PeerChannel) -> tuple[pb.WorkerStats, bytes]:
    """Worker to peer. Raises PeerUnavailableError, RemoteProtocolError, LocalProtocolError, OSError."""
    while True:
        header = pipe.receive_header()
        if header is None or header.kind is not Kind.OPENING:
            break
        offset = 0
        for chunk in pipe.relay(header.length):
            channel.send(_opening(header.label, offset, header.length, chunk))
            offset += len(chunk)
    if header is None:
        raise PeerUnavailableError(WORKER_ENDED)
    payload = bytes(pipe.receive_bytes(header.length))
    if header.kind is Kind.FAILED:
        raise RemoteProtocolError(f"the evaluation failed: {payload.decode()}")
    stats = pb.WorkerStats.FromString(payload)
    return stats, b"" if stats.flags else expect(pipe, Kind.RESULT)


def _opening(label: int, offset: int, total: int, chunk: bytes) -> pb.PeerMessage:
    """A piece of an opening, filled in place: a message that is put into another one is copied."""
    message = pb.PeerMessage()
    message.opening.label, message.opening.offset, message.opening.total_bytes = label, offset, total
    message.opening.chunk = chunk
    return message


def opening_chunks(channel: PeerChannel, label: int, total: int) -> Iterator[tuple[int, int, bytes]]:
    """The peer's opening `label`, piece by piece. Raises RemoteProtocolError where it is not just that."""
    offset = 0
    while offset < total:
        opening = channel.expect("opening").opening
        if (opening.label, opening.offset, opening.total_bytes) != (label, offset, total):
            raise RemoteProtocolError(
                f"the peer sent bytes {opening.offset}.. of {opening.total_bytes} of opening {opening.label}, "
                f"where bytes {offset}.. of {total} of opening {label} were due"
            )
        chunk = opening.chunk  # a copy each time
        if not chunk or offset + len(chunk) > total:
            raise RemoteProtocolError(f"opening {label} of the peer has a piece of {len(chunk)} bytes")
        yield offset, total, chunk
        offset += len(chunk)


def send_opening(channel: PeerChannel, buffer: memoryview) -> None:
    """Send one opening with label 0 (weight masking)."""
    try:
        for offset in range(0, len(buffer), CHUNK_BYTES):
            chunk = bytes(buffer[offset : offset + CHUNK_BYTES])
            channel.send(_opening(0, offset, len(buffer), chunk))
    except PeerUnavailableError:
        channel.close()  # the receiving side of this session reports it


def receive_opening(channel: PeerChannel, *, label: int, total: int) -> bytes:
    """The peer's opening as a whole. Raises RemoteProtocolError, PeerUnavailableError."""
    return b"".join(chunk for _, _, chunk in opening_chunks(channel, label, total))
