"""Fixed point stays near floating point, and the worst case is the one that is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from protocols.layers import Conv
from protocols.masked_oracle import floor
from protocols.masked_plan import WireItem
from protocols.network import WireRange
from training import exactness
from training.architecture import GatedShape, gated_network, initial_weights, on_grid
from training.exactness import LARGEST, Exactness, both_results, measure_exactness, random_carries
from training.images import load_series

NETWORK = gated_network(GatedShape(channels=4, blocks=2, block="direct"))
WEIGHTS = on_grid(NETWORK, initial_weights(NETWORK, 1))


def test_a_small_network_is_within_what_is_allowed(images_folder: Path) -> None:
    found = measure_exactness(NETWORK, WEIGHTS, load_series(images_folder, "validation"), (5.0, 25.0), slices=2, seed=1)
    assert found.cases == 4
    assert 0 < found.difference <= LARGEST
    assert 0 <= found.psnr_difference_db < 0.001
    assert found.good
    assert found.difference_at.startswith("validation/mr_other, slice ")


def test_both_start_from_the_same_grid() -> None:
    image = torch.from_numpy(np.random.default_rng(1).random((9, 12)))
    weights = {name: weight.double() for name, weight in WEIGHTS.items()}
    oracle, plain = both_results(NETWORK, weights, image, 0.1, floor)
    assert oracle.shape == plain.shape == image.shape
    assert torch.allclose(oracle, plain, atol=1e-3)
    assert not torch.equal(oracle, plain)


def test_wires_have_the_format_that_the_model_says() -> None:
    """As on the servers: with coarser ranges the same network is further off."""
    image = torch.from_numpy(np.random.default_rng(1).random((8, 12)))
    weights = {name: weight.double() for name, weight in WEIGHTS.items()}
    names = [layer.out for layer in NETWORK.layers if isinstance(layer, Conv) and layer.out != "exit.project"]
    coarse = replace(NETWORK, ranges=tuple(sorted((name, WireRange(frac_bits=8, magnitude_bits=6)) for name in names)))
    fine, rough = (
        float((oracle - plain).abs().max())
        for oracle, plain in (both_results(network, weights, image, 0.1, floor) for network in (NETWORK, coarse))
    )
    assert rough > 10 * fine


def test_the_worst_case_is_named(images_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_at_50(
        _network: object, _weights: object, image: torch.Tensor, sigma: float, _truncate: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return image + (0.5 if sigma == 50 / 255 else 0.0), image

    monkeypatch.setattr(exactness, "both_results", wrong_at_50)
    found = measure_exactness(NETWORK, WEIGHTS, load_series(images_folder, "validation"), (15.0, 50.0), slices=1, seed=1)
    place = "validation/mr_other, slice 0, sigma 50"
    assert (found.difference, found.difference_at, found.psnr_difference_at) == (pytest.approx(0.5), place, place)
    assert not found.good


def test_carries_are_as_frequent_as_what_is_cut_off_says() -> None:
    truncate = random_carries(torch.Generator().manual_seed(1))
    wire = WireItem(0, "wire", (20000, 1, 1), shift=12, magnitude_bits=6)
    for value in (5 * 4096 + 1024, -5 * 4096 + 1024, 7 * 4096):
        found = truncate(wire, torch.full((20000,), value, dtype=torch.int64))
        assert set(found.tolist()) <= {value >> 12, (value >> 12) + 1}
        assert float(found.double().mean()) == pytest.approx(value / 4096, abs=0.015)


@pytest.mark.parametrize(("difference", "psnr"), [(2 * LARGEST, 0.0), (0.0, 0.02)])
def test_either_limit_counts(difference: float, psnr: float) -> None:
    assert not Exactness(1, difference, "here", psnr, "there").good
