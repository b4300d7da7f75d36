"""The main job against live processes: store, open, denoise on shares, put together, delete."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from client import acquisition, edge
from client.config import HospitalConfig
from client.keys import create_noise_key
from client.model_file import Model
from client.model_owner import list_models, push_model
from client.report import float_estimate
from darkroom.simulation import Simulation
from protocols.engines import CRYPTEN, ENGINES, MASKED
from protocols.errors import IntegrityError, NotFoundError
from protocols.identifiers import Role
from protocols.packing import PackingMode
from tests.darkroom_command import Darkroom
from tests.integration.conftest import picture

SIGMA = 0.05  # that of `picture`
TOLERANCE = 1 / 1023  # of the range; this network's truncations add up to a few units of 2^-16


ROUNDS = {MASKED: 4, CRYPTEN: 3}  # image, first, gate, last; or the factors of first, gate and last


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", list(PackingMode))
@pytest.mark.parametrize("size", [(8, 8), (17, 23)])
def test_secure_result_equals_plaintext(
    config: HospitalConfig, model: Model, mode: PackingMode, size: tuple[int, int], engine: str
) -> None:
    image = picture(*size)
    packing_sigma = 0.0 if mode is PackingMode.KEYED else 0.2  # strong: an 8x8 image has only 64 pixels to test a residual on
    record = acquisition.store(config, image, packing=mode, packing_sigma=packing_sigma or None, sigma=SIGMA)
    result = edge.denoise(config, record.object_id, model="tiny", sigma=SIGMA, engine=engine)
    seen = image.pixels if result.blind is None else result.blind.packed
    reference = float_estimate(model, seen, result.sigma)
    assert float((result.estimate - reference).abs().max()) <= TOLERANCE
    assert float((result.estimate - seen).abs().max()) > TOLERANCE  # the network did something
    for role in Role:
        assert result.costs[role].rounds == ROUNDS[engine]
        assert result.costs[role].sent_bytes > 0
    acquisition.delete(config, record.object_id)
    with pytest.raises(NotFoundError):
        edge.denoise(config, record.object_id, model="tiny")


@pytest.mark.parametrize("engine", ENGINES)
def test_two_runs_of_one_image_use_fresh_material_and_differ_in_carries_only(config: HospitalConfig, engine: str) -> None:
    record = acquisition.store(config, picture(64, 64), sigma=SIGMA)
    first, second = (edge.denoise(config, record.object_id, model="tiny", engine=engine).pixels for _ in range(2))
    assert 0 < float((first - second).abs().max()) < TOLERANCE


def test_wrong_key_is_refused_before_anything_is_sent(config: HospitalConfig, tmp_path: Path) -> None:
    record = acquisition.store(config, picture(), sigma=SIGMA)
    foreign = create_noise_key(tmp_path / "foreign.key")
    stages: list[str] = []
    with pytest.raises(IntegrityError, match="key"):
        edge.denoise(config, record.object_id, model="tiny", master_key=foreign, progress=lambda step: stages.append(step.stage))
    assert stages == []


def test_pushing_again_takes_new_masks(config: HospitalConfig, model: Model) -> None:
    before = next(entry.push_id for entry in list_models(config) if entry.name == "tiny")
    after = push_model(config, model)
    assert after != before
    assert next(entry.push_id for entry in list_models(config) if entry.name == "tiny") == after


def test_a_model_that_nobody_pushed_is_named(config: HospitalConfig) -> None:
    record = acquisition.store(config, picture(), sigma=SIGMA)
    with pytest.raises(NotFoundError, match="'nothing'.*darkroom model push"):
        edge.denoise(config, record.object_id, model="nothing")


def test_command_line_stores_opens_and_deletes(cluster: Simulation, darkroom: Darkroom, npy: Path, tmp_path: Path) -> None:
    stored = darkroom("store", npy, "--sigma", "25", "--config", cluster.client_file)
    assert stored.returncode == 0, stored.stderr
    assert re.fullmatch(r"[0-9a-f]{32}\n", stored.stdout)
    identifier = stored.stdout.strip()
    out = tmp_path / "out.npy"
    opened = darkroom("denoise", identifier, "-o", out, "--model", "tiny", "--json", "-", "--config", cluster.edge_file)
    assert opened.returncode == 0, opened.stderr
    report = json.loads(opened.stdout)
    assert report["mode"] == "keyed"
    assert report["model"]["name"] == "tiny"
    assert np.load(out).shape == np.load(npy).shape
    deleted = darkroom("delete", identifier, "--config", cluster.client_file)
    assert deleted.returncode == 0, deleted.stderr
    again = darkroom("denoise", identifier, "-o", out, "--model", "tiny", "--config", cluster.edge_file)
    assert again.returncode == 3
    assert "Traceback" not in again.stderr


def test_one_command_with_both_identities_leaves_nothing_behind(
    cluster: Simulation, darkroom: Darkroom, npy: Path, tmp_path: Path
) -> None:
    stores = [path for letter in "ab" for path in cluster.site.root.rglob(f"{letter}.store/objects")]
    assert len(stores) == 2
    before = [sorted(store.iterdir()) for store in stores]
    out = tmp_path / "out.npy"
    done = darkroom("denoise", npy, "-o", out, "--model", "tiny", "--sigma", "25", "--config", cluster.hospital_file)
    assert done.returncode == 0, done.stderr
    assert out.exists()
    assert [sorted(store.iterdir()) for store in stores] == before


def test_stores_hold_uniform_words_and_a_seed(config: HospitalConfig, cluster: Simulation) -> None:
    """A constant image, stored: B's words have no repeated value and A's share is a seed."""
    image = picture(64, 64)
    flat = type(image)(torch.full((64, 64), 0.25, dtype=torch.float64), image.origin)
    record = acquisition.store(config, flat, sigma=SIGMA)
    share_a, share_b = (
        next(cluster.site.root.rglob(f"{letter}.store/objects/{record.object_id}.share")).read_bytes() for letter in "ab"
    )
    assert len(share_a) < 200
    words = np.frombuffer(share_b[-64 * 64 * 8 :], dtype="<u8")
    assert len(np.unique(words)) == 64 * 64  # probability of a repetition by chance: 2^-41
