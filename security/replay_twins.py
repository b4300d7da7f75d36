"""The twins of the replay checks, each without one rule: what a single repetition would give away, rebuilt in numbers.

A dealer that deals one material twice, to our real worker processes (`security.recorded_workers`), and a push that takes the
weight masks of another. The algebra is in `security.replay_algebra`. Nothing here is random but the masks, so a rebuilt
value counts only where every word is equal.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

from client.model_file import Model
from protocols.dealing import weight_mask_share
from protocols.errors import LocalProtocolError
from protocols.fixed_point import FRAC_BITS, encode
from protocols.identifiers import Role
from protocols.plan import WeightTriple, masked_weights, plan_for
from protocols.prg import Prg, fresh_key
from security.evaluation import Outcome
from security.recorded_workers import Dealt, Recording, encoded_weights, record, untouched
from security.replay_algebra import Impulses, from_difference, impulse_height, same_size_convolution, weights_from_replay
from security.replay_attempts import LEVEL, SIDE, picture

UPDATE_SHIFT: Final = 54  # a uniform word shifted so far is in +-2^9: an update of a weight by at most 1/8


@dataclass(frozen=True, eq=False)
class Repeated:
    """One material dealt three times: an evaluation, the same with another image, the same with B's first opening altered."""

    model: Model
    first: Recording
    other_image: Recording
    altered: Recording
    impulses: Impulses

    @property
    def layer(self) -> WeightTriple:
        return first_convolution(self.model)


def first_convolution(model: Model) -> WeightTriple:
    """The layer that the image enters. Raises LocalProtocolError where `Impulses` do not fit it."""
    item = plan_for(model.network, SIDE, SIDE).correlations[0]
    if not isinstance(item, WeightTriple) or not same_size_convolution(item.geometry, item.weight_shape[-1]):
        raise LocalProtocolError(f"the twin needs a model that begins with a plain convolution, not {item}")
    return item


def deal_repeatedly(model: Model) -> Repeated:
    """Three evaluations by real workers under one material."""
    key, sigma = fresh_key(), round(LEVEL * (1 << FRAC_BITS))
    item = first_convolution(model)
    impulses = Impulses(*item.a_shape, item.weight_shape[-1])
    addition = impulses.words(impulse_height(model.network.weight_frac_bits)).flatten()

    def alter(receiver: Role, index: int, words: Tensor) -> Tensor:
        return words + addition if receiver is Role.A and index == 0 else words

    secret, known = encode(picture(2))[None], encode(torch.full((SIDE, SIDE), 0.5))[None]
    first, other, altered = (
        record(model, image, sigma, key=key, tamper=tamper)
        for image, tamper in ((secret, untouched), (known, untouched), (secret, alter))
    )
    return Repeated(model, first, other, altered, impulses)


def rebuilt_activation(repeated: Repeated) -> Outcome:
    """Two images under one mask: the difference of the openings, one image known to B, gives the other."""
    wires: list[Int64[Tensor, "..."]] = []
    opened: list[Int64[Tensor, "..."]] = []
    for recording in (repeated.first, repeated.other_image):
        view = recording.views[Role.B]
        opened.append(view.opened(0).view(repeated.layer.a_shape))
        masks = [recording.views[role].own_mask(0) for role in Role]  # the truth, to compare with
        wires.append(opened[-1] + masks[0] + masks[1])
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
    item, frac_bits = repeated.layer, repeated.model.network.weight_frac_bits
    views = [recording.views[Role.B] for recording in (repeated.first, repeated.altered)]
    before, after = (view.received[1].view(item.c_shape) for view in views)
    own_mask = weight_mask_share(views[0].push_seed, 0, item.weight_shape)
    rebuilt = weights_from_replay(before, after, own_mask, repeated.impulses, weight_frac_bits=frac_bits)
    exact = int((rebuilt == encoded_weights(repeated.model)[item.weight]).sum())
    return Outcome(
        exact < rebuilt.numel(),
        f"from one step repeated with another payload server B rebuilt {exact} of {rebuilt.numel()} weights of"
        f" {item.weight} exactly",
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
