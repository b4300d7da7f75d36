"""How far a small error inside a network reaches: rounding to fixed point must not show in the result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protocols.float_evaluation import evaluate_float
from protocols.layers import Conv
from protocols.network import Network
from training.images import Series, spread_slices


@dataclass(frozen=True)
class Conditioning:
    """one_layer, all_layers: largest change of an output pixel for a unit error on every channel of a convolution's output.

    The error is the same for all pixels of a channel, which is worse than rounding: in the worst single layer, and in all
    layers at once.
    """

    one_layer: float
    all_layers: float


def measure_conditioning(
    network: Network, weights: dict[str, Tensor], series: Sequence[Series], *, seed: int, error: float = 1e-4, draws: int = 8
) -> Conditioning:
    """Add +-error to the biases, in float64, on a noisy slice of each series."""
    rng = np.random.default_rng(seed)
    exact = {name: weight.double() for name, weight in weights.items()}
    names = [layer.bias_name for layer in network.layers if isinstance(layer, Conv) and layer.bias]
    sigma = torch.tensor([25 / 255], dtype=torch.float64)
    one_layer, all_layers = 0.0, 0.0
    for one in series:
        clean = one.normalised(spread_slices(one, 1)[0]).astype(np.float64)
        image = torch.from_numpy(clean + 25 / 255 * rng.standard_normal(clean.shape))[None, None]
        with torch.inference_mode():
            expected = evaluate_float(network, exact, image, sigma)
            for chosen in [names] * draws + [[name] for name in names]:
                changed = dict(exact)
                for name in chosen:
                    signs = torch.from_numpy(rng.choice([-error, error], exact[name].shape[0]))
                    changed[name] = exact[name] + signs
                change = float((evaluate_float(network, changed, image, sigma) - expected).abs().max()) / error
                if len(chosen) == 1:
                    one_layer = max(one_layer, change)
                else:
                    all_layers = max(all_layers, change)
    return Conditioning(one_layer, all_layers)
