"""An object's share as a session holds it: the header while it waits in line, the words when its turn has begun."""

from proto import darkroom_pb2 as pb
from protocols.errors import RemoteProtocolError
from protocols.identifiers import ObjectId
from protocols.unpicklable import Unpicklable
from server.share_store import ShareStore


class QueuedImage(Unpicklable):
    """One stored object. What waits in the queue is a few hundred bytes, whatever the size of the image."""

    def __init__(self, store: ShareStore, object_id: ObjectId) -> None:
        """Reads the header. Raises NotFoundError."""
        self._store = store
        self._name = str(object_id)
        self._serialised = store.read_header(self._name)
        self._words: bytes | None = None
        self.header = pb.StoreHeader.FromString(self._serialised)

    def words(self) -> bytes:
        """This server's ring words (none at A, where the header has a seed), read on the first call.

        Raises NotFoundError: deleted while the session waited. RemoteProtocolError: another object took its name.
        """
        if self._words is None:
            stored = self._store.read(self._name)
            if stored.header != self._serialised:
                raise RemoteProtocolError(f"{self._name} was replaced while the session waited")
            self._words = stored.words
        return self._words

    def share(self) -> bytes:
        """What the worker takes: A's seed, or B's words."""
        words = self.words()
        return bytes(self.header.seed) or words
