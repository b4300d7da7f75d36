"""How large wires grow on hostile inputs.

A wire beyond the range of its encoding gives a silently wrong result (DESIGN section 6, Bounds), so the largest magnitude
found goes into the model file. It is measured, not proven: patterns, real slices, and gradient ascent on each wire.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from protocols.fixed_point import IMAGE_HIGH, IMAGE_LOW
from protocols.hostile_images import SIGMAS, hostile_batches
from protocols.layers import Conv, Gate, Product
from protocols.network import IMAGE_WIRE, Network
from training.hostile import hostile_plane
from training.images import Series, spread_slices
from training.probe import Probe, probe_all

SIDE: Final = 64  # more than a receptive field
ASCENT_SIDE: Final = 48  # a receptive field of the flat networks: what is outside cannot reach the peak
ASCENT_STEPS: Final = 40
ASCENT_STRIDE: Final = 0.3  # of the sign of the gradient, falling to zero; 10 strides cross [-1, 2]
ASCENT_WIRES: Final = 8  # searched side by side: bounds the memory
ASCENT_RESTARTS: Final = 3  # from noise and from patterns; escapes are rare, so few searches would miss them all
ESCAPE: Final = 64.0  # a search that finds more has found a place where products run away


@dataclass(frozen=True)
class Bounds:
    """Largest magnitudes found, and how many of the searches by gradient ascent went beyond ESCAPE.

    ascent: 0 without searches. wires: the largest magnitude of each wire, over everything tried. usual: over patterns and slices.
    """

    patterns: float
    slices: float
    ascent: float
    searches: int
    escapes: int
    wires: dict[str, float] = field(repr=False)
    usual: dict[str, float] = field(repr=False)

    @property
    def bound(self) -> float:
        """The figure for the model file."""
        return max(self.wires.values())

    def of_kind(self, network: Network) -> dict[str, float]:
        """The largest magnitude by what a wire is: encodings differ by kind."""
        kinds = {"convolution output": 0.0, "gate output": 0.0, "sum": 0.0}
        for layer in network.layers:
            kind = "convolution output" if isinstance(layer, Conv) else "gate output" if isinstance(layer, Gate) else "sum"
            if layer.out in self.wires:
                kinds[kind] = max(kinds[kind], self.wires[layer.out])
        return kinds


def measure_bounds(network: Network, weights: dict[str, Tensor], series: Sequence[Series], *, seed: int) -> Bounds:
    """Patterns in [-1, 2] and their noisy versions, noisy slices of the series, and gradient ascent on every wire.

    No ascent where nothing multiplies wires: they grow no faster than the image then, and patterns show about how far.
    """
    rng = np.random.default_rng(seed)
    probe = probe_all(network)
    fixed = {name: weight.detach() for name, weight in weights.items()}
    patterns = _maxima(probe, fixed, hostile_batches(SIDE, rng))
    slices = _maxima(probe, fixed, _slices(series, rng))
    multiplies = any(isinstance(layer, Gate | Product) for layer in network.layers)
    ascent, reached = _ascend(probe, fixed, rng) if multiplies else (dict.fromkeys(patterns, 0.0), [])
    wires = {name: max(found[name] for found in (patterns, slices, ascent)) for name in patterns}
    largest = [max(found.values()) for found in (patterns, slices, ascent)]
    escapes = sum(value > ESCAPE for value in reached)
    usual = {name: max(patterns[name], slices[name]) for name in patterns}
    wires[IMAGE_WIRE] = max(abs(IMAGE_LOW), abs(IMAGE_HIGH))
    return Bounds(largest[0], largest[1], largest[2], len(reached), escapes, wires, usual)


def largest_on_patterns(network: Network, weights: dict[str, Tensor], *, seed: int) -> float:
    """The largest magnitude of any wire over the patterns alone: quick, for comparing networks."""
    fixed = {name: weight.detach() for name, weight in weights.items()}
    return max(_maxima(probe_all(network), fixed, hostile_batches(SIDE, np.random.default_rng(seed))).values())


def _slices(series: Sequence[Series], rng: np.random.Generator) -> Iterator[tuple[Tensor, float]]:
    for one in series:
        for plane in spread_slices(one, 3):
            clean = one.normalised(plane)[None, None]
            for sigma in SIGMAS:
                noise = np.float32(sigma / 255) * rng.standard_normal(clean.shape, dtype=np.float32)
                yield torch.from_numpy(clean + noise), sigma


def _maxima(probe: Probe, weights: dict[str, Tensor], batches: Iterator[tuple[Tensor, float]]) -> dict[str, float]:
    """The largest magnitude of each wire over the images."""
    found: dict[str, float] = {}
    for images, sigma in batches:
        with torch.inference_mode():
            wires = probe.wires(weights, images, torch.full((images.shape[0],), sigma / 255))
            for name, value in wires.items():
                found[name] = max(found.get(name, 0.0), float(_peaks(value).max()))
    return found


def _peaks(value: Tensor) -> Tensor:
    """The largest magnitude of each image on a wire; infinite where products overflowed, to infinity or to NaN."""
    return value.detach().abs().nan_to_num(nan=torch.inf, posinf=torch.inf).amax(dim=(1, 2, 3))


def _ascend(probe: Probe, weights: dict[str, Tensor], rng: np.random.Generator) -> tuple[dict[str, float], list[float]]:
    """Search the image in [-1, 2] that makes each wire largest, for each noise level, from noise and from patterns.

    Gives the largest magnitude of each wire, and the largest on any wire that each single search reached.
    """
    found: dict[str, float] = {}
    reached: list[float] = []
    for first in range(0, len(probe.names), ASCENT_WIRES):
        names = probe.names[first : first + ASCENT_WIRES]
        count = len(names) * len(SIGMAS)
        for _ in range(ASCENT_RESTARTS):
            noise = rng.uniform(IMAGE_LOW, IMAGE_HIGH, (count, 1, ASCENT_SIDE, ASCENT_SIDE)).astype(np.float32)
            planes = np.stack([hostile_plane(ASCENT_SIDE, rng) for _ in range(count)])[:, None]
            for start in (noise, planes):
                maxima, tops = _climb(probe, names, weights, torch.from_numpy(start))
                found |= {name: max(found.get(name, 0.0), value) for name, value in maxima.items()}
                reached += tops
    return found, reached


def _climb(
    probe: Probe, names: Sequence[str], weights: dict[str, Tensor], images: Tensor
) -> tuple[dict[str, float], list[float]]:
    """Move len(SIGMAS) images for each named wire by the sign of the gradient of that wire's peak.

    Gives the largest magnitude of every wire on the way, and that of each image on any wire.
    """
    levels = torch.tensor(SIGMAS).div(255).repeat(len(names))
    maxima = dict.fromkeys(probe.names, 0.0)
    tops = torch.zeros(images.shape[0])
    for step in range(ASCENT_STEPS):
        images = images.detach().requires_grad_()
        wires = probe.wires(weights, images, levels)
        for name, value in wires.items():
            peaks = _peaks(value)
            tops = torch.maximum(tops, peaks)
            maxima[name] = max(maxima[name], float(peaks.max()))
        own = torch.cat([part.abs().amax(dim=(1, 2, 3)) for part in _own(wires, names)])
        (slope,) = torch.autograd.grad(own.sum(), images)
        stride = ASCENT_STRIDE * (1 - step / ASCENT_STEPS)
        images = (images.detach() + stride * slope.sign()).clamp(IMAGE_LOW, IMAGE_HIGH)
    return maxima, tops.tolist()


def _own(wires: dict[str, Tensor], names: Sequence[str]) -> Iterator[Tensor]:
    """Of each named wire, the images that climb on it."""
    for index, name in enumerate(names):
        yield wires[name][index * len(SIGMAS) : (index + 1) * len(SIGMAS)]
