"""Pushed models at one server: shares of the weights at rest, and their masked form in RAM.

A push id stands for one masking (fresh masks, opened once) under one run of both servers and the dealer. After a restart
of any of them the weights are masked again, under a new push id, before the next evaluation.
"""

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

from proto import darkroom_pb2 as pb
from protocols import ring, sharing
from protocols.dealing import weight_mask_share
from protocols.errors import (
    LocalProtocolError,
    MaterialReusedError,
    NetworkDescriptionError,
    NotFoundError,
    RemoteProtocolError,
)
from protocols.identifiers import PushId, Role
from protocols.network import Network
from protocols.plan import masked_weights
from protocols.prg import KEY_BYTES
from protocols.unpicklable import Unpicklable
from server.dealer_client import Boots
from server.share_store import ShareStore, StoredShare

MASK_SIZE: Final = (64, 64)  # weight shapes do not depend on the image (`linear` stands behind a pool),
OTHER_SIZE: Final = (128, 192)  # which is checked at this size
MAX_WEIGHT_WORDS: Final = 1 << 27  # 1 GiB of shares


@dataclass(frozen=True, eq=False)
class PushedModel(Unpicklable):
    """A model as the model owner uploaded it: public description, this server's shares."""

    name: str
    upload_id: str
    network: Network
    shares: dict[str, Tensor] = field(repr=False)


@dataclass(frozen=True, eq=False)
class MaskedModel(Unpicklable):
    """Weights in the form that evaluations use: opened deltas, the seed of the mask's share, shares of the biases."""

    push_id: PushId
    upload_id: str
    boots: Boots
    push_seed: bytes = field(repr=False)
    deltas: bytes = field(repr=False)
    bias_shares: bytes = field(repr=False)


def weight_words(network: Network) -> int:
    """Ring words of all tensors of a model. Raises RemoteProtocolError where that is beyond reason."""
    words = sum(_count(shape) for shape in network.parameter_shapes(*MASK_SIZE).values())
    if words > MAX_WEIGHT_WORDS:
        raise RemoteProtocolError(f"the model has {words} weights; at most {MAX_WEIGHT_WORDS} are supported")
    return words


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


class WeightMasking(Unpicklable):
    """The one opening of a push: delta = w - b for every weight tensor. Computed once, accepted once."""

    def __init__(self, model: PushedModel, push: PushId, boots: Boots, push_seed: bytes) -> None:
        self._model = model
        self._push = push
        self._boots = boots
        self._seed = push_seed
        self._masked = masked_weights(model.network, *MASK_SIZE)
        self._own: list[Tensor] | None = None

    def opening(self) -> bytes:
        """This server's summand of all deltas. Raises MaterialReusedError on a second call."""
        if self._own is not None:
            raise MaterialReusedError(f"the weight masks of push {self._push} were used")
        self._own = [
            self._model.shares[name].view(shape) - weight_mask_share(self._seed, position, shape)
            for position, (name, shape) in enumerate(self._masked.items())
        ]
        return b"".join(map(ring.to_bytes, self._own))

    def accept(self, peer: bytes) -> MaskedModel:
        """Add the peer's summand. Raises RemoteProtocolError, LocalProtocolError."""
        if self._own is None:
            raise LocalProtocolError("the peer's weight opening came before ours")
        own, self._own = self._own, []
        flat = ring.from_bytes(peer, (sum(tensor.numel() for tensor in own),))
        deltas = []
        for tensor in own:
            deltas.append(tensor + flat[: tensor.numel()].view(tensor.shape))
            flat = flat[tensor.numel() :]
        biases = [share for name, share in self._model.shares.items() if name not in self._masked]
        return MaskedModel(
            push_id=self._push,
            upload_id=self._model.upload_id,
            boots=self._boots,
            push_seed=self._seed,
            deltas=b"".join(map(ring.to_bytes, deltas)),
            bias_shares=b"".join(map(ring.to_bytes, biases)),
        )


class ModelRegistry:
    """All models of one server. Safe for several threads."""

    def __init__(self, store: ShareStore, role: Role) -> None:
        self._store = store
        self._role = role
        self._lock = threading.Lock()
        self._masked: dict[str, MaskedModel] = {}

    def names(self) -> list[str]:
        """Names of all models here."""
        return self._store.names()

    @contextmanager
    def receiving(self, header: pb.PushModelHeader, chunks: Iterable[bytes]) -> Generator[Callable[[], PushedModel]]:
        """Take in this server's shares of a model; they replace the model of that name when the block ends well.

        Until then the older one stays in force, so that a push that ends half way leaves both servers with the same model.
        Yields what reads the new one. Raises NetworkDescriptionError, and as `ShareStore.arriving`.
        """
        network = Network.from_json(header.network)
        if network.parameter_shapes(*MASK_SIZE) != network.parameter_shapes(*OTHER_SIZE):
            raise NetworkDescriptionError("the model's weights depend on the size of the image: put a pool before `linear`")
        words = weight_words(network)
        if len(header.seed) != (KEY_BYTES if self._role is Role.A else 0):
            raise RemoteProtocolError("server A takes a seed of 32 bytes, server B words")
        expected = 0 if self._role is Role.A else words * ring.WORD_BYTES
        with self._store.arriving(header.name, header.SerializeToString(), chunks, expected, replace=True) as read:
            yield lambda: self._pushed(header.name, read())

    def description(self, name: str) -> pb.PushModelHeader:
        """The uploaded header, without reading the weights. Raises NotFoundError."""
        with self._naming(name):
            header: pb.PushModelHeader = pb.PushModelHeader.FromString(self._store.read_header(name))
        return header

    @contextmanager
    def _naming(self, name: str) -> Generator[None]:
        try:
            yield
        except NotFoundError as error:
            raise NotFoundError(
                f"the model {name!r} is not on server {self._role.value}; push it with `darkroom model push`"
            ) from error

    def load(self, name: str) -> PushedModel:
        """Read the shares back. Raises NotFoundError."""
        with self._naming(name):
            stored = self._store.read(name)  # at once: a push that replaces the model may come at any time
        return self._pushed(name, stored)

    def _pushed(self, name: str, stored: StoredShare) -> PushedModel:
        header, words = pb.PushModelHeader.FromString(stored.header), stored.words
        network = Network.from_json(header.network)
        shapes = network.parameter_shapes(*MASK_SIZE)
        total = weight_words(network)
        if self._role is Role.A:
            flat = sharing.expand_seed(header.seed, (total,))
        else:
            flat = ring.from_bytes(words, (total,))
        shares = {}
        for key, shape in shapes.items():
            shares[key] = flat[: _count(shape)].view(shape).clone()
            flat = flat[_count(shape) :]
        return PushedModel(name, header.session_id, network, shares)

    def masked(self, name: str, upload_id: str, boots: Boots) -> MaskedModel | None:
        """The masked form, if it belongs to this upload and these runs of both servers."""
        with self._lock:
            entry = self._masked.get(name)
        return entry if entry is not None and (entry.upload_id, entry.boots) == (upload_id, boots) else None

    def last_push(self, name: str) -> str:
        """The push id in force, or an empty string. Raises NotFoundError."""
        with self._lock:
            entry = self._masked.get(name)
        in_force = entry is not None and entry.upload_id == self.description(name).session_id
        return str(entry.push_id) if entry is not None and in_force else ""

    def register(self, name: str, masked: MaskedModel) -> None:
        """Keep a fresh masked form."""
        with self._lock:
            self._masked[name] = masked

    def forget(self, name: str) -> None:
        """Drop the masked form: the dealer no longer knows its push."""
        with self._lock:
            self._masked.pop(name, None)
