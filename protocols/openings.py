"""The opening ledger: per (material id, wire) a server computes, sends and accepts an opening exactly once.

A second, different opening under one mask gives away what the mask hides, so this is enforced where openings are made,
in plan order, never rewinding. Run by both servers. The ledger lives in RAM with its material: after a crash there is no
ledger to continue, and the new boot id matches no old material (DESIGN section 5).
"""

from collections.abc import Sequence

from protocols.errors import LocalProtocolError, MaterialReusedError, RemoteProtocolError
from protocols.identifiers import MaterialId


class OpeningLedger:
    """Which openings of one batch of material have been sent and accepted."""

    def __init__(self, material: MaterialId, words: Sequence[int]) -> None:
        """words: ring words of each opening, in plan order."""
        self._material = material
        self._words = tuple(words)
        self._sent = 0
        self._accepted = 0

    @property
    def rounds(self) -> int:
        """Openings completed so far."""
        return self._accepted

    @property
    def finished(self) -> bool:
        """Whether every opening of the plan was sent and accepted."""
        return self._sent == self._accepted == len(self._words)

    def sending(self, index: int, words: int) -> None:
        """Record that opening `index` is about to be sent. Raises MaterialReusedError, LocalProtocolError."""
        if index < self._sent:
            raise MaterialReusedError(f"opening {index} under material {self._material} was already sent")
        if index != self._sent or self._sent != self._accepted:
            raise LocalProtocolError(f"opening {index} is out of order: {self._sent} sent, {self._accepted} accepted")
        if index >= len(self._words) or words != self._words[index]:
            raise LocalProtocolError(f"opening {index} has {words} words, which the plan does not allow")
        self._sent += 1

    def accepting(self, index: int, words: int) -> None:
        """Record that the peer's opening `index` arrived. Raises MaterialReusedError, RemoteProtocolError."""
        if index < self._accepted:
            raise MaterialReusedError(f"the peer's opening {index} under material {self._material} came a second time")
        if index != self._accepted or self._sent != self._accepted + 1:
            raise RemoteProtocolError(f"the peer's opening {index} is out of order: expected {self._accepted}")
        if words != self._words[index]:
            raise RemoteProtocolError(f"the peer's opening {index} has {words} words, the plan says {self._words[index]}")
        self._accepted += 1
