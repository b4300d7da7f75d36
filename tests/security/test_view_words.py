import numpy as np
import pytest
import torch

from protocols.engines import CRYPTEN, MASKED, session_plan
from security.live import flat_image, phantom_image, small_model
from security.view_words import Item, Samples
from security.views import crop


def session(word: int, bits: bool = False) -> dict[str, Item]:
    return {
        "opening 0": Item(torch.tensor([word, word + 1]), ("server-a", "server-b"), bits),
        "A's noise key": Item(torch.tensor([word]), ("server-a",)),
    }


def test_sessions_are_stacked_and_openings_compared_with_the_first():
    samples = Samples.of([session(10), session(13), session(20)])
    assert samples.words["opening 0"].tolist() == [[13, 14], [20, 21]]
    assert samples.words["opening 0, change since the first session"].tolist() == [[3, 3], [10, 10]]
    assert set(samples.words) == {"opening 0", "opening 0, change since the first session", "A's noise key"}
    assert samples.seen_by["A's noise key"] == ("server-a",)


def test_changes_of_bits_are_by_xor():
    samples = Samples.of([session(1, bits=True), session(3, bits=True)])
    assert samples.words["opening 0, change since the first session"].tolist() == [[2, 6]]
    assert samples.bits == {"opening 0", "opening 0, change since the first session"}


def test_the_two_images_are_of_one_shape_and_very_different():
    flat, phantom = flat_image(16), phantom_image(16)
    assert flat.shape == phantom.shape
    assert float(flat.std()) == 0.0
    assert float(phantom.std()) > 0.1


@pytest.mark.parametrize(("rows", "columns"), [((2, 14), (4, 13)), ((0, 3), (15, 16))])
def test_cropping_tells_where_the_content_is(rows, columns):
    image = torch.zeros(16, 16, dtype=torch.float64)
    image[rows[0] : rows[1], columns[0] : columns[1]] = 0.7
    cut = crop(image)
    assert min(cut.shape) >= 8
    assert float(cut.sum()) == pytest.approx(float(image.sum()))
    assert np.prod(cut.shape) < image.numel()


@pytest.mark.parametrize("engine", [MASKED, CRYPTEN])
def test_the_small_model_runs_on_the_engine_that_is_evaluated(engine):
    assert session_plan(engine, small_model().network, 16, 16).engine == engine
