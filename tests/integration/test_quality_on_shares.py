"""The quality report's seconds on shares, by live servers."""

from bench.quality.networks import Judged, time_on_shares
from client.config import HospitalConfig
from client.model_file import Model
from training.cost import network_cost

SIDE = 32


def test_a_network_is_timed_on_shares(config: HospitalConfig, model: Model) -> None:
    told: list[str] = []
    timings = time_on_shares(config, [Judged(model, network_cost(model.network))], SIDE, 2, told.append)
    timing = timings["tiny"]
    assert (timing.side, timing.repetitions) == (SIDE, 2)
    assert len(told) == 3  # and a warm-up
    assert timing.online_seconds > 0
    assert timing.offline_seconds > 0
    assert timing.sent_bytes >= 8 * SIDE * SIDE  # the image's wire alone
    assert 0 < timing.largest_difference < 1 / 1023
