"""The attacks on stock CrypTen, made on what our own servers hold and receive (`security.recorded_workers`).

Each function takes one server's view alone. The masks are AES-256-CTR streams (`protocols.prg`), so there is no seed of 32
bits to find; no server deals, so none has the other's half of a mask; a truncation that fails shows at the edge.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn import functional

from client.acquisition import pack_object
from client.edge import reconstruct_result
from client.keys import MasterKey
from client.model_file import Model
from client.origin import IDENTITY, Kind, Origin, SourceImage
from client.result_stream import ServerCost, ServerResult
from protocols.engines import MASKED
from protocols.errors import IntegrityError
from protocols.fixed_point import FRAC_BITS, decode
from protocols.identifiers import PushId, Role
from protocols.masked_plan import MaskedPlan
from protocols.packing import PackingMode
from protocols.prg import Prg, fresh_key
from security.recorded_workers import Recording, WorkerView, record

FALSE_ALARM: Final = 1e-6  # for all attempts of one evaluation together
FOLD: Final = (
    2  # the shipped network works at half resolution: its first convolution reads the image's four phases, and the level
)
RING_DEVIATION: Final = 2.0**64 / math.sqrt(12)  # of a uniform ring element
FAILURE: Final = 1 << 48  # what a failed division by 2^16 adds; one by 2^12 adds 2^52


def mask_estimates(view: WorkerView) -> Int64[Tensor, " n"]:
    """The peer's mask, up to the size of a pixel: the wire and both masks were opened, and one of those is ours."""
    estimate = view.first_wire(view.own_mask()).flatten()
    return estimate if isinstance(view.plan, MaskedPlan) else -estimate  # the CrypTen engine's masks are subtracted


def rebuilt_with(view: WorkerView, peer_mask: Int64[Tensor, "c h w"]) -> Int64[Tensor, "h w"]:
    """The image, for whoever has both halves of the mask."""
    return _image(view.first_wire(view.own_mask(), peer_mask))


def best_guesses(view: WorkerView) -> dict[str, Int64[Tensor, "h w"]]:
    """What a server can make of its own view: every sum of what it holds in which the image occurs."""
    shape = view.own_mask().shape
    return {
        "its share of the image": view.image_share[0],
        "the opening without its own half of the mask": _image(view.first_wire(view.own_mask())),
        "the other's summand": _image(view.received[0][: shape.numel()].view(shape)),
    }


def _image(wire: Int64[Tensor, "c h w"]) -> Int64[Tensor, "h2 w2"]:
    """The first wire as a picture: the image itself on the masked engine, its phases and the level on the CrypTen engine."""
    return wire[0] if len(wire) == 1 else functional.pixel_shuffle(wire[: FOLD**2], FOLD)[0]


def deviation(guess: Int64[Tensor, "h w"], truth: Float64[Tensor, "h w"]) -> float:
    """How far the guess correlates with the truth, in standard deviations of what a uniform guess gives.

    For a uniform guess this is a sum of independent uniform terms of norm 1: sub-Gaussian with variance 1, for any image.
    """
    centred = truth - truth.mean()
    return abs(float((centred * guess.double()).sum())) / (float(centred.norm()) * RING_DEVIATION)


def alarm_level(attempts: int) -> float:
    """`deviation` beyond which a guess counts: a uniform one gets there with probability FALSE_ALARM / attempts at most.

    From P(|S| >= z) <= 2 exp(-z^2 / 2) for a sub-Gaussian S of variance 1 (a bound, not an approximation).
    """
    return math.sqrt(2 * math.log(2 * attempts / FALSE_ALARM))


def edge_refuses(shares: dict[Role, Int64[Tensor, "1 h w"]]) -> bool:
    """Whether the edge's own check, on these two output shares, raises IntegrityError."""
    height, width = shares[Role.A].shape[1:]
    origin = Origin(kind=Kind.NPY, normalisation=IDENTITY, bits=64, name="injected", dataset=None)
    blank = SourceImage(torch.zeros(height, width, dtype=torch.float64), origin)
    packed = pack_object(blank, MasterKey(fresh_key()), packing=PackingMode.KEYED, sigma=0.0)
    cost = ServerCost(0.0, 0.0, 0, 0, 0, 0, 0)
    push = PushId.fresh()
    a, b = (ServerResult(role, cost, push, MASKED, shares[role], None) for role in Role)
    try:
        reconstruct_result(a, b, packed.record, packed.record.keys, 0.0)
    except IntegrityError:
        return True
    return False


@dataclass(frozen=True)
class Injection:
    """One failed truncation, made on purpose, and what the edge did."""

    opening: int  # the first opening that carries it; one past the last: it is on the output itself
    refused: bool
    damaged: int  # pixels off by more than 0.01


def injected_failures(
    model: Model, image: Int64[Tensor, "1 h w"], sigma: int, honest: Recording, openings: Iterable[int]
) -> Iterator[Injection]:
    """A failure of 2^48 on one element before each of these openings, in a real evaluation; and on the output share.

    Both servers take in the same wrong opening, so that they go on with an element that is off by 2^48, which is what CrypTen's
    truncation leaves behind when it fails.
    """
    reference = _output(honest, tuple(image.shape))
    right = decode(reference[Role.A] + reference[Role.B])
    for target in openings:
        size = honest.views[Role.A].sent[target].numel()
        place = _place(size)

        def fail(_receiver: Role, index: int, words: Tensor, target: int = target, place: int = place) -> Tensor:
            if index == target:
                words[place] += FAILURE
            return words

        engine = honest.dealt.plan.engine
        shares = _output(record(model, image, sigma, key=fresh_key(), tamper=fail, engine=engine), tuple(image.shape))
        yield Injection(target, edge_refuses(shares), _damage(shares, right))
    share = reference[Role.A].clone()
    share.view(-1)[_place(share.numel())] += FAILURE
    shares = {Role.A: share, Role.B: reference[Role.B]}
    yield Injection(honest.dealt.plan.rounds, edge_refuses(shares), _damage(shares, right))


@dataclass(frozen=True)
class Forced:
    """One opening that was driven into the zone where truncation may fail, and what both workers did."""

    opening: int
    flags: tuple[int, ...]  # wires that A and B say are flagged
    released: int  # output shares that left a worker

    @property
    def stopped(self) -> bool:
        return self.released == 0 and len(set(self.flags)) == 1 and self.flags[0] > 0


def forced_flags(
    model: Model, image: Int64[Tensor, "1 h w"], sigma: int, honest: Recording, key: bytes, openings: Iterable[int]
) -> Iterator[Forced]:
    """The masked engine: one word of each of these openings moved to the ring's end. key: the honest run's: c is known."""
    for target in openings:
        opened = honest.views[Role.A].opened(target)
        place = _place(opened.numel())
        missing = torch.tensor(-(1 << 63)) - opened[place]

        def force(
            _receiver: Role, index: int, words: Tensor, at: int = target, place: int = place, by: Tensor = missing
        ) -> Tensor:
            if index == at:
                words[place] += by
            return words

        run = record(model, image, sigma, key=key, tamper=force)
        yield Forced(target, tuple(run.flags[role] for role in Role), len(run.output))


def _output(recording: Recording, shape: tuple[int, ...]) -> dict[Role, Int64[Tensor, "1 h w"]]:
    return {role: share.view(shape) for role, share in recording.output.items()}


def _damage(shares: dict[Role, Tensor], right: Float64[Tensor, "1 h w"]) -> int:
    return int(((decode(shares[Role.A] + shares[Role.B]) - right).abs() > 0.01).sum())


def _place(size: int) -> int:
    """A position drawn at random."""
    return int(Prg(fresh_key()).words(0, 0, (1,))[0] % size)


def level_words(level: float) -> int:
    """A noise level at FRAC_BITS."""
    return round(level * (1 << FRAC_BITS))
