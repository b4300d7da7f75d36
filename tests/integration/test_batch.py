"""`darkroom denoise DIR` against live servers."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from client.config import HospitalConfig
from darkroom.batch_manifest import NAME
from darkroom.simulation import Simulation
from tests.darkroom_command import Darkroom
from tests.integration.conftest import picture
from tests.integration.held_objects import held_objects

pytestmark = pytest.mark.timeout(400)  # several images, on a loaded machine


def test_a_folder_with_a_broken_image_is_denoised_and_resumed(
    cluster: Simulation, config: HospitalConfig, darkroom: Darkroom, tmp_path: Path
) -> None:
    study, out = tmp_path / "study", tmp_path / "clean"
    (study / "series").mkdir(parents=True)
    np.save(study / "series" / "two.npy", picture().pixels.numpy())
    source = Path(get_testdata_file("CT_small.dcm"))
    shutil.copy(source, study / "IM1")
    shutil.copy(source, study / "IM2.dcm")
    (study / "broken.dcm").write_bytes(source.read_bytes()[:9000])
    (study / "notes.txt").write_text("no image")
    before = held_objects(cluster, config)
    command = ["denoise", study, "-o", out, "--model", "tiny", "--jobs", "2", "--json", tmp_path / "report.json"]

    first = darkroom(*command, "--config", cluster.hospital_file)
    assert first.returncode == 3, first.stderr  # the broken one is bad input
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"] == {"done": 3, "already": 0, "no_image": 1, "failed": 1}
    assert "failed: broken.dcm: " in first.stdout
    assert "[5/5] " in first.stderr
    assert np.load(out / "series" / "two.npy").shape == picture().pixels.shape
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        NAME, "IM1.dcm", "IM2.dcm", "series/two.npy"
    }  # fmt: skip
    assert held_objects(cluster, config) == before, "objects were left behind"

    shutil.copy(source, study / "broken.dcm")
    again = darkroom(*command, "--config", cluster.hospital_file)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "report.json").read_text())["counts"] == {
        "done": 1, "already": 3, "no_image": 1, "failed": 0
    }  # fmt: skip

    results = [dcmread(out / name) for name in ("IM1.dcm", "IM2.dcm", "broken.dcm")]
    assert len({result.SeriesInstanceUID for result in results}) == 1, "one series, though it was interrupted"
    assert len({result.SOPInstanceUID for result in results}) == 3
    assert results[0].SeriesInstanceUID != dcmread(source).SeriesInstanceUID


@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted_it_leaves_nothing_at_the_servers_and_goes_on_later(
    cluster: Simulation, config: HospitalConfig, darkroom: Darkroom, tmp_path: Path, jobs: int
) -> None:
    study, out = tmp_path / "study", tmp_path / "clean"
    study.mkdir()
    for index in range(5):
        np.save(study / f"{index}.npy", picture(seed=index).pixels.numpy())
    before = held_objects(cluster, config)
    arguments = ["denoise", study, "-o", out, "--model", "tiny", "--jobs", jobs, "--config", cluster.hospital_file]
    command = [sys.executable, "-m", "darkroom", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as batch:
        assert batch.stderr is not None
        assert batch.stderr.readline().startswith("[1/5] ")
        batch.send_signal(signal.SIGINT)
        summary, _ = batch.communicate(timeout=100)
    assert batch.returncode == 130
    assert "not begun" in summary
    assert held_objects(cluster, config) == before
    done = {path.name for path in out.glob("*.npy")}
    left = [path for path in study.iterdir() if path.name not in done]
    assert done
    for path in left[1:]:  # one shows it
        path.unlink()
    again = darkroom(*arguments, "--json", "-")
    assert again.returncode == 0, again.stderr
    counts = json.loads(again.stdout)["counts"]
    assert counts["done"] + counts["already"] == len(done) + 1
    assert counts["done"] in (1, 2)  # 2: interrupted after a result was written, and before that was noted
