"""The twins of the replay checks, each without one rule: what a single repetition would give away, rebuilt in numbers.

A dealer that deals one material twice, to our real worker processes (`security.recorded_workers`), and a push that takes the
weight masks of another. The algebra is in `security.replay_algebra`. Nothing here is random but the masks, so a rebuilt
value counts only where every word is equal.
"""

from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

from client.model_file import Model
from protocols.dealing import weight_mask_share
from protocols.engines import SessionPlan, session_plan
from protocols.errors import LocalProtocolError
from protocols.fixed_point import FRAC_BITS, encode
from protocols.identifiers import Role
from protocols.masked_plan import ConvItem, MaskedPlan, WireItem
from protocols.plan import Plan, WeightTriple, masked_weights
from protocols.prg import Prg, fresh_key
from security.evaluation import Outcome
from security.recorded_workers import Dealt, Recording, encoded_weights, record, untouched
from security.replay_algebra import (
    Impulses,
    from_difference,
    impulse_height,
    same_size_convolution,
    weights_from_masked_replay,
    weights_from_replay,
)
from security.replay_attempts import LEVEL, SIDE, picture

UPDATE_SHIFT: Final = 54  # a uniform word shifted so far is in +-2^9: an update of a weight by at most 1/8


@dataclass(frozen=True, eq=False)
class Target:
    """The step that is repeated with another payload: a convolution whose source is opened right before it."""

    altered: int  # the opening that B alters
    addition: Int64[Tensor, " n"] = field(repr=False)  # to its words
    reply: slice  # where A's next opening has its summand of the convolution
    shape: tuple[int, ...]
    weight: str
    weight_shape: tuple[int, ...]
    impulses: Impulses


def find_target(plan: SessionPlan, weight_frac_bits: int) -> Target:
    """Raises LocalProtocolError where `Impulses` fit no layer."""
    return _masked_target(plan) if isinstance(plan, MaskedPlan) else _first_convolution(plan, weight_frac_bits)


def _first_convolution(plan: Plan, weight_frac_bits: int) -> Target:
    """The CrypTen engine: the layer that the image enters."""
    item = plan.correlations[0]
    if not isinstance(item, WeightTriple) or not same_size_convolution(item.geometry, item.weight_shape[-1]):
        raise LocalProtocolError(f"the twin needs a model that begins with a plain convolution, not {item}")
    impulses = Impulses(*item.a_shape, item.weight_shape[-1])
    addition = impulses.words(impulse_height(weight_frac_bits)).flatten()
    return Target(0, addition, slice(None), item.c_shape, item.weight, item.weight_shape, impulses)


def _masked_target(plan: MaskedPlan) -> Target:
    """The masked engine: the first plain convolution of a wire that was opened in the message before."""
    layers = plan.lowered.by_name
    for index, level in enumerate(plan.levels[1:], start=1):
        for item in level.items:
            source = plan.wires.get(layers[item.layer].sources[0])
            before = plan.levels[index - 1].items
            if not isinstance(item, ConvItem) or source not in before or len(before) != 1 or not isinstance(source, WireItem):
                continue
            if not same_size_convolution(item.geometry, item.weight_shape[-1]):
                continue
            impulses = Impulses(*source.shape, item.weight_shape[-1])
            start = sum(other.words for other in level.items[: level.items.index(item)])
            addition = impulses.words(1 << source.shift).flatten()
            reply = slice(start, start + item.words)
            return Target(index - 1, addition, reply, item.shape, item.weight, item.weight_shape, impulses)
    raise LocalProtocolError("the twin needs a model with a plain convolution of a wire that is opened alone")


@dataclass(frozen=True, eq=False)
class Repeated:
    """One material dealt three times: an evaluation, the same with another image, the same with one of B's openings altered."""

    model: Model
    first: Recording
    other_image: Recording
    altered: Recording
    target: Target


def deal_repeatedly(model: Model, engine: str) -> Repeated:
    """Three evaluations by real workers under one material."""
    key, sigma = fresh_key(), round(LEVEL * (1 << FRAC_BITS))
    target = find_target(session_plan(engine, model.network, SIDE, SIDE), model.network.weight_frac_bits)

    def alter(receiver: Role, index: int, words: Tensor) -> Tensor:
        return words + target.addition if receiver is Role.A and index == target.altered else words

    secret, known = encode(picture(2))[None], encode(torch.full((SIDE, SIDE), 0.5))[None]
    first, other, altered = (
        record(model, image, sigma, key=key, tamper=tamper, engine=engine)
        for image, tamper in ((secret, untouched), (known, untouched), (secret, alter))
    )
    return Repeated(model, first, other, altered, target)


def rebuilt_activation(repeated: Repeated) -> Outcome:
    """Two images under one mask: the difference of the openings, one image known to B, gives the other."""
    wires: list[Int64[Tensor, "..."]] = []
    opened: list[Int64[Tensor, "..."]] = []
    for recording in (repeated.first, repeated.other_image):
        view = recording.views[Role.B]
        opened.append(view.first_wire())
        wires.append(view.first_wire(*(recording.views[role].own_mask() for role in Role)))  # the truth, to compare with
    rebuilt = from_difference(opened[0], opened[1], wires[1])
    exact, different = int((rebuilt == wires[0]).sum()), int((wires[0] != wires[1]).sum())
    return Outcome(
        exact < rebuilt.numel(),
        f"from two openings under one mask server B rebuilt {exact} of {rebuilt.numel()} words of the first wire exactly,"
        f" the image among them ({different} words differ between the two images)",
        {"words_rebuilt": exact, "words": rebuilt.numel()},
    )


def rebuilt_weights(repeated: Repeated) -> Outcome:
    """One step repeated with another payload: A's next opening shows all weights of the layer."""
    target, frac_bits = repeated.target, repeated.model.network.weight_frac_bits
    views = [recording.views[Role.B] for recording in (repeated.first, repeated.altered)]
    before, after = (view.received[target.altered + 1][target.reply].view(target.shape) for view in views)
    position = list(masked_weights(repeated.model.network, SIDE, SIDE)).index(target.weight)
    own_mask = weight_mask_share(views[0].push_seed, position, target.weight_shape)
    if isinstance(views[0].plan, MaskedPlan):
        rebuilt = weights_from_masked_replay(before, after, own_mask, target.impulses)
    else:
        rebuilt = weights_from_replay(before, after, own_mask, target.impulses, weight_frac_bits=frac_bits)
    exact = int((rebuilt == encoded_weights(repeated.model)[target.weight].view(target.weight_shape)).sum())
    return Outcome(
        exact < rebuilt.numel(),
        f"from one step repeated with another payload server B rebuilt {exact} of {rebuilt.numel()} weights of"
        f" {target.weight} exactly",
        {"weights_rebuilt": exact, "weights": rebuilt.numel()},
    )


def rebuilt_update(model: Model) -> Outcome:
    """Two pushes under the masks of one, as if a restart kept them: the difference of the deltas is that of the weights."""
    dealt = Dealt.under(fresh_key(), model, SIDE, SIDE)
    exact = count = 0
    encoded = encoded_weights(model)
    for position, (name, shape) in enumerate(masked_weights(model.network, SIDE, SIDE).items()):
        old = encoded[name].view(shape)
        new = old + (Prg(dealt.key).words(position, 0, shape) >> UPDATE_SHIFT)
        rebuilt = from_difference(new - dealt.masks[name], old - dealt.masks[name], old)
        exact += int((rebuilt == new).sum())
        count += rebuilt.numel()
    return Outcome(
        exact < count,
        f"with masks kept over a restart either server rebuilt {exact} of {count} weights of a new model from the old one's",
        {"weights_rebuilt": exact, "weights": count},
    )
