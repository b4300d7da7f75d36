"""An image that real workers evaluate in tiles, two at a time: what comes back is what the network gives for the whole image."""

from collections.abc import Iterator

import psutil
import pytest

from client import acquisition, edge
from client.config import load_config
from client.model_file import Model
from client.model_owner import push_model
from client.progress import Step
from client.report import float_estimate
from darkroom.simulation import MODULES, Simulation, simulation
from protocols.engines import MASKED, session_plan
from protocols.identifiers import Role
from protocols.ring import WORD_BYTES
from protocols.tiles import Tile
from tests.integration.conftest import picture
from tests.integration.tiled_server import small_tiles

SIGMA = 0.05
HEIGHT, WIDTH = 97, 130
SERVERS = {"server-a": "tests.integration.tiled_server", "server-b": "tests.integration.tiled_server"}


@pytest.fixture(scope="module")
def tiling(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Simulation]:
    """Servers of their own, which cut small images."""
    with simulation(tmp_path_factory.mktemp("tiling") / "site", tell=print, modules={**MODULES, **SERVERS}) as running:
        push_model(load_config(running.hospital_file), model)
        yield running


def sent_bytes(model: Model, height: int, width: int) -> int:
    return session_plan(MASKED, model.network, height, width).sent_bytes


def tiles_of(model: Model) -> list[Tile]:
    return small_tiles(model.network, HEIGHT, WIDTH, lambda *size: sent_bytes(model, *size) // WORD_BYTES)


def held_by(server: int) -> int:
    """Bytes of resident memory of a server and all that it has started; what several share is counted once."""
    held = 0
    for process in (psutil.Process(server), *psutil.Process(server).children(recursive=True)):
        try:
            held += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            pass  # a worker that has ended meanwhile
    return held


def test_a_tiled_image_is_what_the_network_gives_for_the_whole(tiling: Simulation, model: Model) -> None:
    config = load_config(tiling.hospital_file)
    image = picture(HEIGHT, WIDTH)
    record = acquisition.store(config, image, sigma=SIGMA)
    stages: list[str] = []
    held: list[int] = []

    def at(step: Step) -> None:
        if step.who == "server A":
            stages.append(step.stage)
            held.append(held_by(tiling.processes.names["server-a"]))

    result = edge.denoise(config, record.object_id, model=model.name, engine=MASKED, progress=at)
    reference = float_estimate(model, image.pixels, SIGMA)
    assert float((result.estimate - reference).abs().max()) < 1 / 4095
    assert float((reference - image.pixels).abs().max()) > 0.01  # there was something to compute

    sent = [sent_bytes(model, tile.height, tile.width) for tile in tiles_of(model)]
    assert [stage for stage in stages if stage.startswith("tile")] == [f"tile {number} of 6" for number in range(1, 7)]
    assert {cost.sent_bytes for cost in result.costs.values()} == {sum(sent)}
    assert len(sent) == 6
    assert max(held) <= result.costs[Role.A].peak_rss_bytes
