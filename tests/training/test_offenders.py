"""The worst of many hostile images are found, kept by number, and drawn again as they were."""

import torch

from training.architecture import GatedShape, gated_network, initial_weights
from training.hostile import penalties
from training.offenders import FIRST, drawn, find_offenders
from training.settings import PressureSettings

NETWORK = gated_network(GatedShape(channels=4, blocks=2, block="direct"))
WEIGHTS = initial_weights(NETWORK, 0)
NAMES = tuple(layer.out for layer in NETWORK.layers if layer.op == "gate")
SETTINGS = PressureSettings(side=16, looked_at=12, kept=3, limit=0.5)


def find(settings: PressureSettings, known: tuple[int, ...] = (), step: int = 0) -> list[int]:
    return find_offenders(NETWORK, NAMES, WEIGHTS, settings, known, sigma_max=55.0, seed=1, step=step)


def penalties_of(numbers: list[int], limit: float = SETTINGS.limit) -> list[float]:
    found = penalties(NETWORK, NAMES, WEIGHTS, drawn(numbers, 16, 55.0, seed=1), limit)
    return [float(one) for one in found]


def test_the_worst_are_found_and_stand_first() -> None:
    everyone = list(range(FIRST, FIRST + SETTINGS.looked_at))
    worst = sorted(zip(penalties_of(everyone), everyone, strict=True), reverse=True)[:3]
    assert worst[-1][0] > 0
    assert find(SETTINGS) == [number for _, number in worst]


def test_those_within_the_limit_are_no_offenders() -> None:
    assert find(PressureSettings(side=16, looked_at=12, kept=3, limit=1e6)) == []


def test_known_offenders_stay_until_worse_ones_are_found_or_they_are_tame() -> None:
    first = find(SETTINGS)
    later = find(SETTINGS, known=tuple(first), step=1)
    new = set(range(FIRST + 12, FIRST + 24))
    assert set(later) <= set(first) | new
    assert min(penalties_of(later)) >= min(penalties_of(first))
    assert find(PressureSettings(side=16, looked_at=12, kept=3, limit=1e6), known=tuple(first)) == []


def test_a_number_is_one_image() -> None:
    both, alone = drawn([FIRST, FIRST + 5], 16, 55.0, seed=1), drawn([FIRST + 5], 16, 55.0, seed=1)
    assert torch.equal(both.images[1:], alone.images)
    assert torch.equal(both.sigma[1:], alone.sigma)
    assert not torch.equal(both.images[:1], alone.images)
