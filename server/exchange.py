"""How a worker's openings leave and the peer's arrive: through the pipe to its server process, which relays them.

Sending runs in its own thread: both workers send at once, and each must read while it writes.
"""

import math
import queue
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from protocols import ring
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.openings import OpeningLedger
from server.pipe import Kind, Pipe


class Sender:
    """Writes frames in order, one block of words after the other."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._outgoing: queue.SimpleQueue[tuple[int, int] | Tensor | None] = queue.SimpleQueue()
        self.sent_bytes = 0
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def _send_all(self) -> None:
        try:
            while (part := self._outgoing.get()) is not None:
                if isinstance(part, tuple):
                    self._pipe.send_header(Kind.OPENING, *part)
                else:
                    self._pipe.send_bytes(part.contiguous().numpy().data.cast("B"))
        except OSError:
            pass  # the server has closed the pipe; the receiving side says so

    def begin(self, index: int, words: int) -> None:
        """Announce opening `index`, whose words follow."""
        self.sent_bytes += words * ring.WORD_BYTES
        self._outgoing.put((index, words * ring.WORD_BYTES))

    def send(self, words: Tensor) -> None:
        """Part of the announced opening; the tensor must not be changed until it has left."""
        self._outgoing.put(words)

    def finish(self) -> None:
        """Wait until the last opening has left.

        The peer's last opening can be here long before ours is gone. A frame sent meanwhile would land inside our opening,
        and so at the other server: this server's output share among them.
        """
        self._outgoing.put(None)
        self._thread.join()


def _await(pipe: Pipe, index: int, words: int) -> None:
    """The header of the peer's opening. Raises RemoteProtocolError where it is not the one that is due."""
    header = pipe.receive_header()
    if header is None or header.kind is not Kind.OPENING:
        raise RemoteProtocolError(f"the link to the other server broke at opening {index}")
    if header.label != index or header.length != words * ring.WORD_BYTES:
        raise RemoteProtocolError(f"opening {header.label} of {header.length} bytes came in place of opening {index}")


def _receive(pipe: Pipe, shape: tuple[int, ...]) -> Tensor:
    theirs = torch.empty(shape, dtype=torch.int64)
    pipe.receive_into(theirs.numpy().data)
    return theirs


class WholeExchange:
    """One opening at a time, as CrypTen asks for it; the ledger stands in its communicator."""

    def __init__(self, pipe: Pipe, sender: Sender) -> None:
        self._pipe = pipe
        self._sender = sender

    def __call__(self, index: int, own: Sequence[Tensor]) -> list[Tensor]:
        """One opening, both ways."""
        words = sum(tensor.numel() for tensor in own)
        self._sender.begin(index, words)
        for tensor in own:
            self._sender.send(tensor)
        _await(self._pipe, index, words)
        return [_receive(self._pipe, tuple(tensor.shape)) for tensor in own]


class BlockExchange:
    """Openings block by block, for the masked engine (`protocols.masked_evaluation.Opener`); each stands in the ledger once.

    Neither a second opening under one number nor one of another size leaves this process.
    """

    def __init__(self, pipe: Pipe, sender: Sender, ledger: OpeningLedger) -> None:
        self._pipe = pipe
        self._sender = sender
        self._ledger = ledger
        self._index = -1
        self._words = self._unsent = self._due = 0

    def begin(self, index: int, words: int) -> None:
        """Announce opening `index`. Raises MaterialReusedError, LocalProtocolError: it is not the next, or one is not over."""
        self._ledger.sending(index, words)
        if self._unsent:
            raise LocalProtocolError(f"opening {index} was begun before opening {self._index} had left")
        self._sender.begin(index, words)
        self._index, self._words, self._unsent, self._due = index, words, words, words

    def send(self, block: Tensor) -> None:
        """The next words of this server's summand. Raises LocalProtocolError: more than were announced."""
        self._unsent -= block.numel()
        if self._unsent < 0:
            raise LocalProtocolError(f"opening {self._index} is longer than the plan allows")
        self._sender.send(block)

    def receive(self, shape: tuple[int, ...]) -> Tensor:
        """The next words of the peer's summand. Raises RemoteProtocolError."""
        if math.prod(shape) > self._due:
            raise LocalProtocolError(f"opening {self._index} is read beyond its end")
        if self._due == self._words:
            _await(self._pipe, self._index, self._words)
        block = _receive(self._pipe, shape)
        self._due -= block.numel()
        if self._due == 0:
            self._ledger.accepting(self._index, self._words)
        return block
