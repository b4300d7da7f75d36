"""What was stored is named somewhere, also where standard output takes nothing, and where a later plane fails."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client import acquisition
from darkroom import commands
from darkroom.simulation import Simulation
from protocols.errors import PeerUnavailableError
from tests.darkroom_command import Darkroom

NOTE = re.compile(r"stored all the same: ([0-9a-f]{32})")


@pytest.mark.parametrize("json_too", [False, True])
def test_an_id_that_could_not_be_printed(
    cluster: Simulation, darkroom: Darkroom, npy: Path, monkeypatch: pytest.MonkeyPatch, json_too: bool
) -> None:
    options = ("--json", "-") if json_too else ()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        done = darkroom("store", npy, "--config", cluster.client_file, *options)
    assert done.returncode == 4
    assert done.stderr.endswith("darkroom: standard output cannot be written: No space left on device\n")
    (object_id,) = NOTE.findall(done.stderr)
    monkeypatch.undo()
    acquisition.delete(commands.load_config(cluster.client_file), object_id)


def test_ids_of_the_planes_before_the_one_that_failed(
    cluster: Simulation, darkroom: Darkroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [Image.fromarray(np.full((16, 16), 1000 * page + np.arange(16), dtype=np.uint16)) for page in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    real, asked = acquisition.store, []

    def breaking(*arguments: Any, **options: Any) -> Any:
        asked.append(True)
        if len(asked) == 3:
            raise PeerUnavailableError("server B did not answer in time")
        return real(*arguments, **options)

    monkeypatch.setattr(commands.acquisition, "store", breaking)
    done = darkroom("store", tmp_path / "pages.tif", "--sigma", "5", "--config", cluster.client_file, "--json", "-")
    assert done.returncode == 5, done.stderr
    report = json.loads(done.stdout)
    assert report["error"]["exit_code"] == 5
    ids = [each["object_id"] for each in report["objects"]]
    assert len(ids) == 2
    assert NOTE.findall(done.stderr) == ids
    for object_id in ids:
        acquisition.delete(commands.load_config(cluster.client_file), object_id)
