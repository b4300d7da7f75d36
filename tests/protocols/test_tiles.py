import pytest
import torch

from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import decode, encode
from protocols.float_evaluation import evaluate_float
from protocols.layers import Add, AvgPool, Concat, Conv, Gate, PixelShuffle, PixelUnshuffle, Product, SigmaMap
from protocols.masked_plan import masked_plan
from protocols.network import IMAGE_WIRE, Network
from protocols.tiles import reach, tiles_for
from tests.protocols.every_layer import EVERY_LAYER, encoded_weights, weights_of
from tests.protocols.joined_parties import run_parties

GATED = Network(
    (
        PixelUnshuffle("folded", IMAGE_WIRE, 2),
        SigmaMap("sigma", "folded"),
        Concat("entry", "folded", "sigma"),
        Conv("head", "entry", 4, kernel=3, padding=1),
        Conv("filter", "head", 8, kernel=5, padding=4, dilation=2),
        Gate("gate", "filter"),
        Conv("down", "gate", 8, kernel=2, stride=2),
        Conv("rise", "down", 16, kernel=1),
        PixelShuffle("up", "rise", 2),
        Add("joined", "up", "gate"),
        Conv("tail", "joined", 4, kernel=3, padding=1),
        PixelShuffle("correction", "tail", 2),
        Add("output", IMAGE_WIRE, "correction"),
    ),
    multiple=4,
)


def words_of(network):
    return lambda height, width: masked_plan(network, height, width).sent_bytes // 8


def limit_for(network, side):
    return words_of(network)(side, side)


def run(network, image):
    weights = {name: weight.double() for name, weight in weights_of(network).items()}
    return evaluate_float(network, weights, image[None, None], torch.tensor([0.1], dtype=torch.double))[0, 0]


@pytest.mark.parametrize(("height", "width"), [(200, 131), (97, 260), (401, 80)])
def test_tiles_give_the_untiled_result(height, width):
    image = torch.rand(height, width, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    tiles = tiles_for(GATED, height, width, words_of(GATED), limit_for(GATED, 112))
    assert len(tiles) > 2
    whole = torch.full_like(image, torch.nan)
    for tile in tiles:
        window = image[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        whole[tile.place] = run(GATED, window)[tile.kept]
    assert torch.allclose(whole, run(GATED, image), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_tiles_on_shares_give_the_untiled_result_within_a_grey_level():
    """Both on the masked engine: what differs is the carries of truncation, and nothing at the seams."""
    image = torch.rand(1, 97, 260, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    tiles = tiles_for(GATED, 97, 260, words_of(GATED), limit_for(GATED, 112))
    assert len(tiles) > 2
    weights, level = encoded_weights(GATED, weights_of(GATED)), int(encode(torch.tensor(0.1)))

    def on_shares(window, number):
        return decode(run_parties(GATED, weights, encode(window.contiguous()), level, seed=bytes([number] * 32)).output)[0]

    whole = torch.full_like(image[0], torch.nan)
    for number, tile in enumerate(tiles):
        window = image[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        whole[tile.place] = on_shares(window, number)[tile.kept]
    assert float((whole - on_shares(image, 99)).abs().max()) < 1 / 4095


def test_the_reach_is_no_smaller_than_what_an_impulse_shows():
    image = torch.zeros(192, 192, dtype=torch.double)
    changed = image.clone()
    changed[96, 96] = 1.0
    rows, columns = torch.nonzero(run(GATED, changed) - run(GATED, image), as_tuple=True)
    seen = max(int((rows - 96).abs().max()), int((columns - 96).abs().max()))
    assert seen <= reach(GATED) <= seen + 8


@pytest.mark.parametrize(("height", "width"), [(8, 9), (100, 100), pytest.param(333, 1234, marks=pytest.mark.slow)])
def test_kept_parts_cover_the_image_once_and_windows_fit(height, width):
    limit = limit_for(GATED, 120)
    tiles = tiles_for(GATED, height, width, words_of(GATED), limit)
    count = torch.zeros(height, width)
    for tile in tiles:
        count[tile.place] += 1
        assert tile.top % GATED.multiple == tile.left % GATED.multiple == 0
        assert 0 <= tile.top <= tile.inner_top
        assert tile.top + tile.height <= height
        assert words_of(GATED)(tile.height, tile.width) <= limit
    assert torch.equal(count, torch.ones_like(count))


def test_an_image_that_fits_is_one_tile():
    (tile,) = tiles_for(GATED, 64, 80, words_of(GATED))
    assert (tile.height, tile.width, tile.kept) == (64, 80, (slice(0, 64), slice(0, 80)))


def test_a_network_that_sees_the_whole_image_is_not_cut():
    attention = Network((AvgPool("mean", IMAGE_WIRE, 0), Product("weighed", IMAGE_WIRE, "mean")))
    assert reach(attention) is None
    assert reach(EVERY_LAYER) is None
    with pytest.raises(NetworkDescriptionError, match="depends on the whole image"):
        tiles_for(attention, 100, 100, words_of(attention), 1000)


def test_a_window_without_an_inner_part_is_refused():
    with pytest.raises(NetworkDescriptionError, match="leaves nothing"):
        tiles_for(GATED, 500, 500, words_of(GATED), limit_for(GATED, 40))
