"""One cluster for the whole session: dealer, server A, server B as processes, a small model pushed."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from client import acquisition, edge
from client.config import HospitalConfig, load_config
from client.model_file import Model, load_model, save_model
from client.model_owner import push_model
from client.origin import IDENTITY, Kind, Origin, SourceImage
from client.records import ObjectRecord
from darkroom.simulation import LISTEN, Simulation, simulation
from protocols.layers import Add, Concat, Conv, Gate, PixelShuffle, PixelUnshuffle, SigmaMap
from protocols.network import Network
from tests.integration.failing_site import LARGE_SIDE, FailingSite, failing_site
from tests.integration.wide_models import WIDE_CHANNELS, WideModels, wide_models


def network(channels: int) -> Network:
    """A small one, with as many channels between its two convolutions."""
    return Network(
        (
            PixelUnshuffle("half", "image", 2),
            SigmaMap("sigma", "half"),
            Concat("in", "half", "sigma"),
            Conv("first", "in", channels, 3, padding=1),
            Gate("gate", "first"),
            Conv("last", "gate", 4, 3, padding=1),
            Add("sum", "last", "half"),
            PixelShuffle("out", "sum", 2),
        ),
        multiple=2,
        weight_frac_bits=12,
    )


NETWORK = network(8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.integration)
            if "failing" in getattr(item, "fixturenames", ()):  # its parties are not started twice
                item.add_marker(pytest.mark.failures)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A mean over 2x2 pixels, slightly disturbed so that no weight is zero: enough of a denoiser for blind mode's test."""
    generator = torch.Generator().manual_seed(5)
    weights = {name: 0.01 * torch.randn(shape, generator=generator) for name, shape in NETWORK.parameter_shapes().items()}
    weights["first.bias"][4:] += 1.0  # the gate's second factor
    for channel in range(4):
        weights["first.weight"][channel, channel, 1, 1] += 1.0
        weights["last.weight"][channel, :, 1, 1] += 0.25
        weights["last.weight"][channel, channel, 1, 1] -= 1.0
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, NETWORK, weights, bound=8.0)
    return load_model(path)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Simulation]:
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DARKROOM_LOG", "DEBUG")  # a test searches the logs of all that the others did
            site = tmp_path_factory.mktemp("cluster") / "site"
            running = stack.enter_context(simulation(site, tell=print, metrics=LISTEN))
        push_model(load_config(running.hospital_file), model)
        yield running


@pytest.fixture(scope="session")
def failing(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[FailingSite]:
    """Parties of their own for tests that kill them, and lines between them to cut and stall."""
    with failing_site(tmp_path_factory.mktemp("failing") / "site") as running:
        push_model(running.config, model)
        yield running


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> WideModels:
    """Two models of one name, to push one in place of the other."""
    return wide_models(tmp_path_factory.mktemp("wide"), network(WIDE_CHANNELS), picture())


@pytest.fixture
def told_apart(failing: FailingSite, wide: WideModels) -> Iterator[ObjectRecord]:
    """The older of the two in force, and an object to see that by; everything repaired afterwards."""
    push_model(failing.config, load_model(wide.older))
    stored = acquisition.store(failing.config, wide.image, sigma=0.05)
    yield stored
    failing.repair()
    acquisition.delete(failing.config, stored.object_id)


@pytest.fixture(scope="session")
def large(failing: FailingSite) -> ObjectRecord:
    """An object whose session takes so long that a party or a line can fail in it; evaluated once."""
    stored = acquisition.store(failing.config, picture(LARGE_SIDE, LARGE_SIDE), sigma=0.05)
    edge.denoise(failing.config, stored.object_id, model="tiny")
    return stored


@pytest.fixture
def repaired(failing: FailingSite) -> Iterator[None]:
    """After the test every party runs, and every line passes everything on."""
    yield
    failing.repair()


@pytest.fixture
def config(cluster: Simulation) -> HospitalConfig:
    return load_config(cluster.hospital_file)


def picture(height: int = 17, width: int = 23, seed: int = 1) -> SourceImage:
    """A smooth image with noise, as an .npy would give it."""
    y, x = np.mgrid[0:height, 0:width]
    clean = 0.5 + 0.3 * np.sin(x / 5) * np.cos(y / 4)
    noise = np.random.default_rng(seed).normal(0, 0.05, clean.shape)
    origin = Origin(kind=Kind.NPY, normalisation=IDENTITY, bits=64, name="picture.npy", dataset=None)
    return SourceImage(torch.from_numpy(clean + noise), origin)


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    path = tmp_path / "in.npy"
    np.save(path, picture().pixels.numpy())
    return path
