"""The edge and the hospital's own dealer together, against the weights of a small network: the algebra, done.

The network is 64 filters of 3x3 on one window of an 8x8 image, one output word each. The edge knows the image x and both
result shares; the dealer every mask: a of the image, b of the weights, and c. So eps = x - a is known, and server B's share

    u_B = c_B + a_B * (w - b) + eps * b_B   (mod 2^64),   t_B = u_B / 2^12, rounded toward zero,

is, before truncation, a linear form in the nine small weights w with known random coefficients a_B. Each session gives 52 bits
about it: four sessions determine the weights, and lattice reduction finds them. The *result* gives four equations
for nine unknowns, so whoever gets the result alone cannot: many weights give the same result on these images.
With re-randomisation the edge sees u_B / 2^12 - K, K uniform and unknown to edge and dealer: every candidate that gives
the same result explains what they saw, with another K.

Sources: R. Kannan, Minkowski's convex body theorem and integer programming, Mathematics of Operations Research 12 (1987), 415-440
(the embedding); D. Boneh, R. Venkatesan, Hardness of computing the most significant bits of secret keys, CRYPTO 1996 (the
hidden number problem). Lattice reduction is sympy's LLL; sympy comes with torch.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Int64
from sympy import ZZ  # type: ignore[import-untyped]
from sympy.polys.matrices import DomainMatrix  # type: ignore[import-untyped]
from torch import Tensor

from client import acquisition, edge
from client.both_servers import Connection, at_both, connect
from client.config import HospitalConfig, load_config
from client.model_file import Model
from client.model_owner import push_model
from client.origin import IDENTITY, Kind, Origin, SourceImage
from client.records import ObjectRecord
from client.result_stream import ResultReader
from darkroom.simulation import MODULES, Simulation
from proto import darkroom_pb2 as pb
from proto.status import calling
from protocols import dealing, ring
from protocols.dealing import PartyMaterial, Stream
from protocols.engines import SessionPlan, session_plan
from protocols.fixed_point import encode_image
from protocols.identifiers import Role
from protocols.layers import Conv, PixelShuffle
from protocols.masked_dealing import Stream as MaskStream
from protocols.masked_dealing import dealt_corrections
from protocols.masked_plan import ConvItem, MaskedPlan
from protocols.network import Network
from protocols.plan import Plan, WeightTriple
from protocols.prg import Prg, fresh_key
from security.telling_dealer import FILE as TOLD_FILE

SIDE: Final = 8  # the smallest image
KERNEL: Final = 3
WEIGHTS: Final = KERNEL * KERNEL  # unknowns of one filter
FILTERS: Final = SIDE * SIDE  # one output pixel each
SESSIONS: Final = 4  # 4 * 52 bits for 9 weights of 14; the result alone: 4 equations for 9 unknowns
FRAC: Final = 12  # fractional bits of the weights, and so the bits that truncation takes off
WEIGHT_LIMIT: Final = 1 << 13  # |w| < 2 on the grid of 2^-12: what the attacker takes for granted of a denoiser
RING: Final = 1 << 64

COLLUDING: Final = {**MODULES, "dealer": "security.telling_dealer"}
UNPADDED: Final = {**COLLUDING, "server-a": "security.unpadded_server", "server-b": "security.unpadded_server"}

Weights = Int64[Tensor, "64 1 3 3"]


def small_network() -> Network:
    """64 filters on the top left window of an 8x8 image, laid out as an 8x8 result."""
    filters = Conv("filters", "image", FILTERS, kernel=KERNEL, stride=SIDE, bias=False)
    return Network((filters, PixelShuffle("result", "filters", SIDE)), weight_frac_bits=FRAC)


def random_weights() -> Weights:
    """Uniform on the grid of 2^-12 in [-1, 1), as words."""
    words = Prg(fresh_key()).words(0, 0, (FILTERS, 1, KERNEL, KERNEL))
    return (words & ((2 << FRAC) - 1)) - (1 << FRAC)


@dataclass(frozen=True, eq=False)
class View:
    """What edge and dealer together hold of one session: image, masks, result shares. No weights."""

    plan: SessionPlan
    image: Int64[Tensor, "1 8 8"] = field(repr=False)
    seeds: dict[Role, bytes] = field(repr=False)  # session material
    push_seeds: dict[Role, bytes] = field(repr=False)  # weight masks
    shares: dict[Role, Int64[Tensor, " 64"]] = field(repr=False)

    @property
    def result(self) -> Int64[Tensor, " 64"]:
        """What the edge is meant to learn."""
        return self.shares[Role.A] + self.shares[Role.B]

    def mask(self, role: Role) -> Int64[Tensor, "64 1 3 3"]:
        """One server's share of the weight mask b."""
        return dealing.weight_mask_share(self.push_seeds[role], 0, (FILTERS, 1, KERNEL, KERNEL))

    def image_mask(self, role: Role) -> Int64[Tensor, "1 8 8"]:
        """One server's share of the image mask a."""
        return PartyMaterial(role, _crypten(self.plan), self.seeds[role]).a_share(0)

    def product_share(self, role: Role) -> Int64[Tensor, "64 1 1"]:
        """One server's share of c = a * b: A's from its seed, B's the correction that the dealer solved for."""
        if role is Role.A:
            return Prg(self.seeds[Role.A]).words(0, Stream.C, (FILTERS, 1, 1))
        masks = {"filters.weight": self.mask(Role.A) + self.mask(Role.B)}
        return next(dealing.corrections(_crypten(self.plan), self.seeds[Role.A], self.seeds[Role.B], masks))[1]

    def coefficients(self, role: Role) -> Int64[Tensor, " 9"]:
        """What each weight of a filter is multiplied by in this server's share: a_B for B, and a_A + eps = x - a_B for A."""
        mask = self.image_mask(Role.B)
        return (self.image - mask if role is Role.A else mask)[0, :KERNEL, :KERNEL].flatten()

    def share_for(self, role: Role, weights: Weights, *, truncate: bool = True) -> Int64[Tensor, " 64"]:
        """What this server computed before re-randomisation, if the weights were these: the engine's own formula."""
        delta = weights - self.mask(Role.A) - self.mask(Role.B)
        epsilon = self.image - self.image_mask(Role.A) - self.image_mask(Role.B)
        kernel = self.mask(role) + delta if role is Role.A else self.mask(role)
        geometry = _geometry(self.plan)
        out = self.product_share(role) + ring.conv2d(self.image_mask(role), delta, geometry)
        out = (out + ring.conv2d(epsilon, kernel, geometry)).flatten()
        return truncated(out) if truncate else out


def truncated(words: Tensor) -> Tensor:
    """CrypTen's local truncation of one share: toward zero."""
    return torch.div(words, 1 << FRAC, rounding_mode="trunc")


def _crypten(plan: SessionPlan) -> Plan:
    if not isinstance(plan, Plan):
        raise TypeError("this part of the algebra is the CrypTen engine's")
    return plan


def _geometry(plan: SessionPlan) -> ring.ConvGeometry:
    item = _crypten(plan).correlations[0]
    if not isinstance(item, WeightTriple):
        raise TypeError("the small network starts with a convolution")
    return item.geometry


def observe(running: Simulation, weights: Weights, images: Sequence[Tensor], engine: str) -> list[View]:
    """Push the model, then one session for each image: what the edge receives and what the dealer tells. Live."""
    config = load_config(running.hospital_file)
    network = small_network()
    model = Model("small", network, {"filters.weight": weights.double() / (1 << FRAC)}, bound=20.0)
    push_model(load_config(running.model_owner_file), model)
    received = []
    for pixels in images:
        source = SourceImage(pixels, Origin(Kind.NPY, IDENTITY, 64, "window.npy", None))
        record = acquisition.store(config, source, sigma=0.0)
        received.append(_open(config, record, model.name, engine))
        acquisition.delete(config, record.object_id)
    told = [json.loads(line) for line in (running.site.folder("dealer") / TOLD_FILE).read_text().splitlines()]
    push_seeds = {Role(entry["role"]): bytes.fromhex(entry["seed"]) for entry in told if entry["kind"] == "push"}
    sessions: dict[str, dict[Role, bytes]] = {}
    for entry in told:
        if entry["kind"] == "session":
            sessions.setdefault(entry["id"], {})[Role(entry["role"])] = bytes.fromhex(entry["seed"])
    plan = session_plan(engine, network, SIDE, SIDE)
    return [
        View(plan, encode_image(pixels).unsqueeze(0), seeds, push_seeds, shares)
        for pixels, seeds, shares in zip(images, list(sessions.values())[-len(images) :], received, strict=True)
    ]


def _open(config: HospitalConfig, record: ObjectRecord, model: str, engine: str) -> dict[Role, Int64[Tensor, " 64"]]:
    """The edge's window, keeping the two result shares apart."""
    requests = edge.denoise_requests(record, record.keys, model, record.sigma, engine)
    calls: list[Any] = []

    def read(connection: Connection, request: pb.DenoiseRequest) -> Tensor:
        reader = ResultReader(connection.role, record.packing, record.height, record.width)
        with calling(connection.name):
            call = connection.stub.Denoise(request, timeout=edge.QUEUE_SECONDS)
            calls.append(call)
            for reply in call:
                reader.receive(reply)
        return reader.finish().output.flatten()

    def cancel() -> None:
        for call in calls:
            call.cancel()

    with connect(config, config.require_edge()) as connections:
        return at_both({role: partial(read, link, requests[role]) for role, link in connections.items()}, cancel)


# --- the attack ---


def solve_filter(views: Sequence[View], number: int) -> list[int] | None:
    """The nine weights of one filter from server B's result shares, or None where no small weights explain them.

    Kannan's embedding: the lattice of (w, a_B * w mod 2^64, .) has one very short vector where the shares are unpadded.
    Without one, weights below the limit and errors below 2^12 fit by chance with probability 2^(126 + 52 - 256) = 2^-78.
    """
    nothing = torch.zeros(FILTERS, 1, KERNEL, KERNEL, dtype=torch.int64)
    count, sessions = WEIGHTS, len(views)
    coefficients, targets = [], []
    for view in views:
        known = view.share_for(Role.B, nothing, truncate=False)[number]
        seen = view.shares[Role.B][number]
        targets.append((int(seen) * (1 << FRAC) - int(known)) % RING)
        coefficients.append([int(a) % RING for a in view.coefficients(Role.B)])
    rows = [[int(i == j) for j in range(count)] + [line[i] for line in coefficients] + [0] for i in range(count)]
    rows += [[0] * count + [RING if i == j else 0 for j in range(sessions)] + [0] for i in range(sessions)]
    rows += [[0] * count + [-target for target in targets] + [1 << FRAC]]
    for vector in _reduced(rows):
        if abs(vector[-1]) == 1 << FRAC:
            signed = [value if vector[-1] > 0 else -value for value in vector]
            small = all(abs(value) < WEIGHT_LIMIT for value in signed[:count])
            if small and all(abs(value) < 1 << FRAC for value in signed[count:-1]):
                return signed[:count]
    return None


def _reduced(rows: list[list[int]]) -> list[list[int]]:
    matrix = DomainMatrix(rows, (len(rows), len(rows[0])), ZZ).lll()
    return [[int(value) for value in row] for row in matrix.to_list()]


# --- the other side: candidates that explain the view ---


@dataclass(frozen=True, eq=False)
class Candidates:
    """Weights with the same function on these images, tried against the views; a row per candidate, a column per filter."""

    same_result: Tensor = field(repr=False)  # bool: the reconstructed words agree in every session, to the last bit
    same_shares: Tensor = field(repr=False)  # bool: and so do both shares as they are, without any pad
    changes: Tensor = field(repr=False)  # (candidates, 9): what was added to every filter

    @property
    def explained(self) -> int:
        """Filters for which some other weights explain the view, if shares carry a pad that nobody here knows."""
        return int(self.same_result.any(0).sum())

    @property
    def explained_unpadded(self) -> int:
        """The same, if they carry none."""
        return int(self.same_shares.any(0).sum())

    @property
    def carry_bits(self) -> float:
        """What the last-place carries of the released results tell beyond the function: -log2 of the part that agrees.

        Mean over the filters. For uniform shares 1 / (2 ln 2) = 0.72 bits a session: the entropy of a carry, averaged.
        """
        agreeing = self.same_result.double().mean(0).clamp(min=0.5 / len(self.changes))
        return float(-torch.log2(agreeing).mean())


def null_changes(views: Sequence[View]) -> Int64[Tensor, "n 9"]:
    """Changes of a filter that no image here shows: integer combinations (-2 to 2) of a short basis of the null space."""
    windows = [[int(value) for value in view.image[0, :KERNEL, :KERNEL].flatten()] for view in views]
    heavy = 1 << 80  # so that reduction clears the products first
    rows = [[int(i == j) for j in range(WEIGHTS)] + [heavy * window[i] for window in windows] for i in range(WEIGHTS)]
    basis = [row[:WEIGHTS] for row in _reduced(rows) if not any(row[WEIGHTS:])]
    signs = [signs for signs in itertools.product(range(-2, 3), repeat=len(basis)) if any(signs)]
    return torch.tensor(signs, dtype=torch.int64) @ torch.tensor(basis, dtype=torch.int64)


def try_candidates(views: Sequence[View], weights: Weights) -> Candidates:
    """Add every change of `null_changes` to the weights, and see whether that gives what edge and dealer saw."""
    changes = null_changes(views)
    same_result = torch.ones(len(changes), FILTERS, dtype=torch.bool)
    same_shares = same_result.clone()
    for view in views:
        own = {}
        for role in Role:
            # the share before truncation is affine in the weights, so a change of all filters shifts all alike
            shift = (changes @ view.coefficients(role)).unsqueeze(1)
            own[role] = truncated(view.share_for(role, weights, truncate=False) + shift)
        same_result &= own[Role.A] + own[Role.B] == view.result
        same_shares &= (own[Role.A] == view.shares[Role.A]) & (own[Role.B] == view.shares[Role.B])
    return Candidates(same_result, same_shares, changes)


# --- the masked engine ---


@dataclass(frozen=True, eq=False)
class MaskedMasks:
    """What the dealer knows of one session on the masked engine: r of the one truncated wire, and the shares of r >> f."""

    full: Int64[Tensor, "64 1 1"] = field(repr=False)
    shares: dict[Role, Int64[Tensor, " 64"]] = field(repr=False)

    @classmethod
    def of(cls, view: View) -> "MaskedMasks":
        plan = view.plan
        item = plan.wires["filters"] if isinstance(plan, MaskedPlan) else None
        if not isinstance(plan, MaskedPlan) or not isinstance(item, ConvItem):
            raise TypeError("this part of the algebra is the masked engine's")
        prgs = {role: Prg(view.seeds[role]) for role in Role}
        image = plan.wires["image"]
        source = sum((prg.words(image.number, MaskStream.OPENING, image.shape) for prg in prgs.values()), torch.tensor(0))
        e = sum((prg.words(item.number, MaskStream.OPENING, item.shape) for prg in prgs.values()), torch.tensor(0))
        weight_mask = view.mask(Role.A) + view.mask(Role.B)
        (to_b,) = dealt_corrections(plan, view.seeds[Role.A], view.seeds[Role.B], {"filters.weight": weight_mask})
        shares = {Role.A: prgs[Role.A].words(item.number, MaskStream.DEALT, item.shape).flatten(), Role.B: to_b.flatten()}
        return cls(e + ring.conv2d(source, weight_mask, item.geometry), shares)


def predicted_shares(view: View) -> dict[Role, Int64[Tensor, " 64"]]:
    """Both servers' output shares before re-randomisation, from the result and the dealer's masks. No weights.

    A holds D - l_A, B -l_B, with D = result + l. So what edge and dealer see of the shares they can compute from the result.
    """
    masks = MaskedMasks.of(view).shares
    public = view.result + masks[Role.A] + masks[Role.B]
    return {Role.A: public - masks[Role.A], Role.B: -masks[Role.B]}


def predicted_words(views: Sequence[View]) -> int:
    """How many words of the shares that were seen are as predicted."""
    return sum(int((predicted_shares(view)[role] == view.shares[role]).sum()) for view in views for role in Role)


def try_masked_candidates(views: Sequence[View], weights: Weights) -> Candidates:
    """As `try_candidates`: other weights with the same function on these images, against every word that edge and dealer saw."""
    changes = null_changes(views)
    same_result = torch.ones(len(changes), FILTERS, dtype=torch.bool)
    same_shares = same_result.clone()
    for view in views:
        full, predicted = MaskedMasks.of(view).full.flatten(), predicted_shares(view)
        window = view.image[0, :KERNEL, :KERNEL].flatten()
        wires = weights.view(FILTERS, WEIGHTS) @ window + (changes @ window).unsqueeze(1)
        same_result &= ((wires + full) >> FRAC) - (full >> FRAC) == view.result
        same_shares &= same_result & (predicted[Role.A] == view.shares[Role.A]) & (predicted[Role.B] == view.shares[Role.B])
    return Candidates(same_result, same_shares, changes)
