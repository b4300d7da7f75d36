"""CrypTen with our provider, PRNG, communicator and weight protocol in place of its own. The one module that imports it.

Used in a worker process that serves one evaluation and ends, because CrypTen keeps its state in module globals.
What is replaced and why: docs/architecture.md#crypten. What stays: tensors, encoder, operators, circuits, truncation.

Every opening goes through `PeerCommunicator.all_reduce`, which demands a correlation taken for it: a value without a
fresh mask cannot be opened, neither by `reveal` nor by `get_plain_text`.
"""

import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from protocols import ring
from protocols.dealing import PartyMaterial
from protocols.errors import ConfigurationError, LocalProtocolError
from protocols.identifiers import Role
from protocols.openings import OpeningLedger
from protocols.plan import AndTriple, ProductTriple, SharedBit, WeightTriple
from protocols.prg import Prg, derive_key
from protocols.ring import ConvGeometry
from protocols.shared_model import MaskedWeight
from protocols.unpicklable import Unpicklable

INSTALL_COMMAND: Final = "pip install --no-deps crypten==0.4.1"

# Sends this server's words of opening `index`, and returns the peer's words of the same opening.
Exchange = Callable[[int, Sequence[Tensor]], list[Tensor]]


def require_crypten() -> None:
    """Raises ConfigurationError with the exact command where CrypTen is missing."""
    if importlib.util.find_spec("crypten") is None:
        raise ConfigurationError(f"this server needs CrypTen, which is not installed; run: {INSTALL_COMMAND}")


def import_crypten() -> types.ModuleType:
    """Import CrypTen 0.4.1 without its ONNX converter, whose torch.onnx internals are gone. Raises ConfigurationError."""
    require_crypten()
    name = "crypten.nn.onnx_converter"
    if name not in sys.modules:
        stub = types.ModuleType(name)
        for attribute in ("from_onnx", "from_pytorch", "from_tensorflow", "TF_AND_TF2ONNX"):
            setattr(stub, attribute, None)
        sys.modules[name] = stub
    import crypten
    import crypten.mpc

    package: types.ModuleType = crypten
    return package


class PeerCommunicator:
    """CrypTen's communicator over the A-B link: openings only, each under a correlation taken for it."""

    BYTES_PER_ELEMENT = 8
    instance: "PeerCommunicator | None" = None

    def __init__(self, role: Role, ledger: OpeningLedger, exchange: Exchange) -> None:
        self._role = role
        self._ledger = ledger
        self._exchange = exchange
        self._pending: int | None = None

    @classmethod
    def is_initialized(cls) -> bool:
        return cls.instance is not None

    @classmethod
    def get(cls) -> "PeerCommunicator":
        if cls.instance is None:
            raise LocalProtocolError("no evaluation is under way in this process")
        return cls.instance

    def get_world_size(self) -> int:
        return 2

    def get_rank(self) -> int:
        return self._role.party

    def grant(self, index: int) -> None:
        """Allow one opening, under the correlation just taken. Called by the provider."""
        if self._pending is not None:
            raise LocalProtocolError(f"correlation {self._pending} was taken and never opened")
        self._pending = index

    def all_reduce(self, tensors: Any, op: Any = torch.distributed.ReduceOp.SUM, batched: bool = False) -> Any:
        """Open: the sum (or XOR) of both servers' words. Raises LocalProtocolError where no correlation was taken."""
        if self._pending is None:
            raise LocalProtocolError("an opening was asked for without a mask; servers never open a secret")
        index, self._pending = self._pending, None
        own: list[Tensor] = list(tensors) if batched else [tensors]
        words = sum(tensor.numel() for tensor in own)
        self._ledger.sending(index, words)
        peer = self._exchange(index, own)
        self._ledger.accepting(index, sum(tensor.numel() for tensor in peer))
        xor = op == torch.distributed.ReduceOp.BXOR
        opened = [theirs.bitwise_xor_(mine) if xor else theirs.add_(mine) for mine, theirs in zip(own, peer, strict=True)]
        return opened if batched else opened[0]


class DealtProvider:
    """CrypTen's provider of correlated randomness, served from one batch of the dealer's material."""

    def __init__(self, crypten: types.ModuleType, material: PartyMaterial, communicator: PeerCommunicator) -> None:
        self._arithmetic = crypten.mpc.primitives.ArithmeticSharedTensor
        self._binary = crypten.mpc.primitives.BinarySharedTensor
        self._material = material
        self._communicator = communicator

    def _check(self, wanted: Sequence[int], dealt: Sequence[int], wire: str) -> None:
        if tuple(wanted) != tuple(dealt):
            raise LocalProtocolError(f"{wire}: the evaluation needs {tuple(wanted)}, the plan deals {tuple(dealt)}")

    def weight_triple(self, x_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """This server's shares of a, and of c with a * delta folded in."""
        index, item, dealt = self._material.take(WeightTriple)
        self._check(x_shape, item.a_shape, item.wire)
        self._communicator.grant(index)
        return dealt.a, dealt.c

    def product_triple(self, x_shape: Sequence[int], y_shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """This server's shares of a, b and c = a * b."""
        index, item, dealt = self._material.take(ProductTriple)
        if dealt.b is None:
            raise LocalProtocolError(f"{item.wire}: a product triple without b")
        self._check(x_shape, item.a_shape, item.wire)
        self._check(y_shape, item.b_shape, item.wire)
        self._communicator.grant(index)
        return dealt.a, dealt.b, dealt.c

    def generate_binary_triple(self, size0: Sequence[int], size1: Sequence[int], device: Any = None) -> tuple[Any, Any, Any]:
        """CrypTen's own call, for its comparison circuit."""
        index, item, dealt = self._material.take(AndTriple)
        self._check(size0, item.a_shape, item.wire)
        self._check(size1, item.a_shape, item.wire)
        self._communicator.grant(index)
        wrap = self._binary.from_shares
        return wrap(dealt.a, precision=0), wrap(dealt.b, precision=0), wrap(dealt.c, precision=0)

    def B2A_rng(self, size: Sequence[int], device: Any = None) -> tuple[Any, Any]:  # noqa: N802 - CrypTen's name
        """CrypTen's own call: one random bit, shared additively and by XOR."""
        index, item, dealt = self._material.take(SharedBit)
        self._check(size, item.a_shape, item.wire)
        self._communicator.grant(index)
        return self._arithmetic.from_shares(dealt.c, precision=0), self._binary.from_shares(dealt.a, precision=0)


class MaskedProtocol:
    """Stands where CrypTen's `beaver` module stands for products; its AND and B2A stay CrypTen's."""

    def __init__(self, crypten: types.ModuleType, role: Role, provider: DealtProvider) -> None:
        self._wrap = crypten.mpc.primitives.ArithmeticSharedTensor.from_shares
        self._leads = role is Role.A
        self._provider = provider

    def conv2d(self, x: Any, weight: Any, *, geometry: ConvGeometry) -> Any:
        """[x*w] = [c] + [a]*delta + eps*[b] + eps*delta with eps = x - a opened; delta was opened once per push."""
        a, c = self._provider.weight_triple(x.share.shape)
        epsilon = self._wrap(x.share - a, precision=0).reveal()
        kernel = weight.share + weight.masked_delta if self._leads else weight.share
        return self._wrap(c.add_(ring.conv2d(epsilon, kernel, geometry)), precision=0)

    def mul(self, x: Any, y: Any) -> Any:
        """Beaver's product; epsilon and delta are opened in one message."""
        a, b, c = self._provider.product_triple(x.share.shape, y.share.shape)
        shared = self._wrap(c, precision=0)
        epsilon, delta = shared.reveal_batch([self._wrap(x.share - a), self._wrap(y.share - b)])
        c.add_(a.mul_(delta))
        c.add_(epsilon.mul_(b.add_(delta) if self._leads else b))
        return shared


class StreamGenerator(Unpicklable):
    """What CrypTen holds as a generator: an AES-CTR stream known to both servers, one label per draw."""

    def __init__(self, key: bytes) -> None:
        self._prg = Prg(key)
        self._draws = 0

    def words(self, size: Sequence[int]) -> Tensor:
        self._draws += 1
        return self._prg.words(self._draws, 0, tuple(size))


def _draw_words(size: Sequence[int], *, generator: StreamGenerator, **_: Any) -> Tensor:
    """Replaces CrypTen's Mersenne-Twister ring elements; a call without one of our generators is an error."""
    return generator.words(size)


def start_evaluation(
    role: Role, material: PartyMaterial, ledger: OpeningLedger, exchange: Exchange, zero_key: bytes
) -> types.ModuleType:
    """Install everything for the one evaluation of this process; returns the crypten package.

    zero_key: 32 bytes that A and B agreed on, for CrypTen's pseudorandom sharings of zero.
    Raises LocalProtocolError on a second call in one process.
    """
    crypten = import_crypten()
    if PeerCommunicator.is_initialized():
        raise LocalProtocolError("this process has served an evaluation; start another")
    communicator = PeerCommunicator(role, ledger, exchange)
    PeerCommunicator.instance = communicator
    crypten.communicator.DistributedCommunicator = PeerCommunicator
    provider = DealtProvider(crypten, material, communicator)
    crypten.mpc.__dict__["__SUPPORTED_PROVIDERS"].clear()  # TFP, TTP and HE cannot be reached from here on
    crypten.mpc.__dict__["__SUPPORTED_PROVIDERS"]["dealer"] = provider
    crypten.cfg.mpc.provider = "dealer"
    from crypten.mpc.primitives import arithmetic, binary

    arithmetic.__dict__["masked"] = MaskedProtocol(crypten, role, provider)
    crypten.cfg.mpc.protocol = "masked"
    arithmetic.generate_random_ring_element = _draw_words
    binary.generate_kbit_random_tensor = _draw_words
    cpu = torch.device("cpu")
    # both servers hold both streams; A adds what B subtracts
    first, second = (StreamGenerator(derive_key(zero_key, label)) for label in (b"zero/first", b"zero/second"))
    crypten.generators.clear()
    crypten.generators["prev"] = {cpu: first if role is Role.A else second}
    crypten.generators["next"] = {cpu: second if role is Role.A else first}
    return crypten


def shared_tensor(crypten: types.ModuleType, share: Tensor, frac_bits: int) -> Any:
    """An ArithmeticSharedTensor from this server's share of a value with `frac_bits` fractional bits."""
    return crypten.mpc.primitives.ArithmeticSharedTensor.from_shares(share, precision=frac_bits)


def weight_tensor(crypten: types.ModuleType, weight: MaskedWeight) -> Any:
    """A CrypTen tensor that carries the mask's share, and beside it the opened delta; integers, so CrypTen does not rescale."""
    tensor = shared_tensor(crypten, weight.mask_share, 0)
    tensor.masked_delta = weight.delta
    return tensor


def relu(crypten: types.ModuleType, x: Any) -> Any:
    """CrypTen's comparison and product."""
    wrapped = crypten.mpc.MPCTensor.from_shares(x.share)
    result = wrapped.relu()
    return shared_tensor(crypten, result.share, int(x.encoder._precision_bits))
