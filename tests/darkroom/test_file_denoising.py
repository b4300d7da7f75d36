"""A server must not learn from what follows whether the edge refused a result: what it is asked is the same either way."""

from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile

from client.dicom_derived import Derivation
from client.waiting import patiently
from darkroom import file_denoising
from darkroom.file_denoising import denoise_file
from darkroom.store_options import StoreOptions
from protocols.errors import BusyError, IntegrityError, PeerUnavailableError

PLANES = 3
OPTIONS = StoreOptions("keyed", None, 0.1, None, None, Derivation.fresh())


class Servers:
    """Stands for both: what they are asked, and how the edge takes the result of each plane."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.verdicts: dict[int, Exception] = {}  # by plane
        self.busy: list[Exception] = []  # refusals of store, used up one by one
        self.deletion: Exception | None = None
        self._plane = -1
        monkeypatch.setattr(file_denoising.acquisition, "store", self._store)
        monkeypatch.setattr(file_denoising.acquisition, "delete", self._delete)
        monkeypatch.setattr(file_denoising.edge, "denoise", self._denoise)
        monkeypatch.setattr(file_denoising.edge, "combined", lambda results: results[0])
        monkeypatch.setattr(file_denoising, "write_stack", lambda *_: self.written.append(True))
        monkeypatch.setattr(file_denoising, "patiently", partial(patiently, pause=lambda _: None))
        self.written: list[bool] = []

    def _store(self, _config: object, image: object, **_options: object) -> Mock:
        self.asked.append("store")
        if self.busy:
            raise self.busy.pop()
        self._plane += 1
        return Mock(object_id=str(self._plane))

    def _denoise(self, _config: object, object_id: str, **_options: object) -> Mock:
        self.asked.append("denoise")
        if self._plane in self.verdicts:
            raise self.verdicts[self._plane]
        return Mock()

    def _delete(self, _config: object, object_id: str, **_options: object) -> None:
        self.asked.append("delete")
        if self.deletion is not None:
            raise self.deletion


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    return Servers(monkeypatch)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume.tif"
    pixels = np.arange(PLANES * 16 * 16, dtype=np.uint16).reshape(PLANES, 16, 16)
    tifffile.imwrite(path, pixels, photometric="minisblack")
    return path


def run(volume: Path, *, wait: float = 0.0) -> Mock:
    stages = Mock()
    denoise_file(Mock(), volume, volume.with_name("out.tif"), "base", OPTIONS, stages, wait=wait)
    return stages


@pytest.mark.parametrize("deletion", [None, PeerUnavailableError("server A hung up")])
@pytest.mark.parametrize("plane", range(PLANES))
def test_a_refused_plane_changes_nothing_that_the_servers_see(
    servers: Servers, volume: Path, plane: int, deletion: Exception | None
) -> None:
    servers.deletion = deletion
    run(volume)
    accepted, servers.asked = servers.asked, []
    assert accepted == ["store", "denoise", "delete"] * PLANES
    assert servers.written == [True]
    servers._plane, servers.verdicts = -1, {plane: IntegrityError("outside")}
    with pytest.raises(IntegrityError):
        run(volume)
    assert servers.asked == accepted
    assert servers.written == [True]  # nothing of the second


def test_a_broken_call_is_raised_whether_or_not_a_result_was_refused_before(servers: Servers, volume: Path) -> None:
    broken = {2: PeerUnavailableError("server B hung up")}
    seen = []
    for earlier in ({}, {0: IntegrityError("outside")}):
        servers.asked, servers._plane, servers.verdicts = [], -1, {**earlier, **broken}
        with pytest.raises(PeerUnavailableError):
            run(volume)
        seen.append(servers.asked)
    assert seen[0] == seen[1]


def test_a_deletion_that_fails_is_told_and_nothing_else(servers: Servers, volume: Path) -> None:
    servers.deletion = PeerUnavailableError("server A hung up")
    stages = run(volume)
    assert [call.args for call in stages.tell.call_args_list].count(("note", "server A hung up")) == PLANES
    assert servers.written == [True]


def test_a_busy_server_is_asked_again_to_store(servers: Servers, volume: Path) -> None:
    servers.busy = [BusyError("draining", retry_seconds=1)]
    with pytest.raises(BusyError):
        run(volume)
    servers.asked, servers.busy = [], [BusyError("draining", retry_seconds=1)]
    run(volume, wait=10.0)
    assert servers.asked[:3] == ["store", "store", "denoise"]
