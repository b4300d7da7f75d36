"""A server must not learn from what follows whether the edge refused a result: what it is asked is the same either way.

And the planes of a file: two under way at most, in order, and nothing left of them however the work ends.
"""

import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile

from client.calls import Calls
from client.dicom_derived import Derivation
from client.progress import Step
from client.waiting import patiently
from darkroom import file_denoising, planes
from darkroom.file_denoising import denoise_file
from darkroom.store_options import StoreOptions
from protocols.errors import AccessDenied, BusyError, IntegrityError, PeerUnavailableError

PLANES = 3
OPTIONS = StoreOptions("keyed", None, 0.1, None, None, Derivation.fresh())
SECONDS = 20


class Servers:
    """Stands for both: what they are asked, and how the edge takes the result of each plane."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int]] = []
        self.verdicts: dict[int, Exception] = {}  # by plane
        self.busy: list[Exception] = []  # refusals of store, used up one by one
        self.deletion: Exception | None = None
        self.during: Callable[[int, Calls | None], object] = lambda plane, calls: None  # what happens while one is evaluated
        self.storing: Callable[[int], object] = lambda plane: None
        self.at_once = 0  # evaluated, at most
        self._evaluated = 0
        self._plane = -1
        self.cancelled: list[bool] = []  # of calls that were held until then, whether they were
        self._changed = threading.Condition()
        monkeypatch.setattr(planes.acquisition, "store", self._store)
        monkeypatch.setattr(planes.acquisition, "delete", self._delete)
        monkeypatch.setattr(planes.edge, "denoise", self._denoise)
        monkeypatch.setattr(file_denoising.edge, "combined", lambda results: results[0])
        monkeypatch.setattr(file_denoising, "write_stack", lambda _, pixels, *__: self.written.append(pixels))
        monkeypatch.setattr(planes, "patiently", partial(patiently, pause=lambda _: None))
        self.written: list[list[object]] = []

    def again(self, verdicts: dict[int, Exception]) -> None:
        """Forget what was asked; how the next file's planes are taken."""
        self.asked, self._plane, self.verdicts = [], -1, verdicts

    @property
    def of_each(self) -> list[list[str]]:
        """What they were asked for each plane, in order; planes overlap."""
        return [[what for what, plane in self.asked if plane == each] for each in range(PLANES)]

    def wait_for(self, what: str, plane: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: (what, plane) in self.asked, SECONDS), self.asked

    def hold(self, calls: Calls | None) -> None:
        """A call that ends when it is cancelled."""
        call, ended = Mock(), threading.Event()
        call.cancel = ended.set
        assert calls is not None
        calls.begin(lambda: call)
        self.cancelled.append(ended.wait(SECONDS))
        raise PeerUnavailableError("cancelled")

    def _ask(self, what: str, plane: int) -> None:
        with self._changed:
            self.asked.append((what, plane))
            self._changed.notify_all()

    def _store(self, _config: object, image: object, **_options: object) -> Mock:
        self._ask("store", self._plane + 1)
        self.storing(self._plane + 1)
        if self.busy:
            raise self.busy.pop()
        self._plane += 1
        return Mock(object_id=str(self._plane))

    def _denoise(
        self, _config: object, object_id: str, *, progress: Callable[[Step], None], calls: Calls | None, **_: object
    ) -> Mock:
        plane = int(object_id)
        self._ask("denoise", plane)
        with self._changed:
            self._evaluated += 1
            self.at_once = max(self.at_once, self._evaluated)
        try:
            progress(Step("server A", f"evaluating {plane}"))
            self.during(plane, calls)
            if plane in self.verdicts:
                raise self.verdicts[plane]
            return Mock(pixels=plane)
        finally:
            self._evaluated -= 1

    def _delete(self, _config: object, object_id: str, **_options: object) -> None:
        self._ask("delete", int(object_id))
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


def run(
    volume: Path, *, wait: float = 0.0, window: timedelta = timedelta(hours=24), see: Callable[[Step], object] = lambda step: None
) -> Mock:
    stages = Mock(side_effect=see)
    denoise_file(Mock(window=window), volume, volume.with_name("out.tif"), "base", OPTIONS, stages, wait=wait)
    return stages


WHOLE = ["store", "denoise", "delete"]


@pytest.mark.parametrize("deletion", [None, PeerUnavailableError("server A hung up")])
@pytest.mark.parametrize("plane", range(PLANES))
def test_a_refused_plane_changes_nothing_that_the_servers_see(
    servers: Servers, volume: Path, plane: int, deletion: Exception | None
) -> None:
    servers.deletion = deletion
    run(volume)
    assert servers.of_each == [WHOLE] * PLANES
    assert servers.written == [[0, 1, 2]]
    servers.again({plane: IntegrityError("outside")})
    with pytest.raises(IntegrityError):
        run(volume)
    assert servers.of_each == [WHOLE] * PLANES
    assert len(servers.written) == 1  # nothing of the second


def test_a_broken_call_is_raised_whether_or_not_a_result_was_refused_before(servers: Servers, volume: Path) -> None:
    broken = {2: PeerUnavailableError("server B hung up")}
    seen = []
    for earlier in ({}, {0: IntegrityError("outside")}):
        servers.again({**earlier, **broken})
        with pytest.raises(PeerUnavailableError):
            run(volume)
        seen.append(servers.of_each)
    assert seen[0] == seen[1]


def test_a_deletion_that_fails_is_told_and_nothing_else(servers: Servers, volume: Path) -> None:
    servers.deletion = PeerUnavailableError("server A hung up")
    stages = run(volume)
    assert [call.args for call in stages.tell.call_args_list].count(("note", "server A hung up")) == PLANES
    assert len(servers.written) == 1


def test_a_busy_server_is_asked_again_to_store(servers: Servers, volume: Path) -> None:
    servers.busy = [BusyError("draining", retry_seconds=1)]
    with pytest.raises(BusyError):
        run(volume)
    servers.again({})
    servers.busy = [BusyError("draining", retry_seconds=1)]
    run(volume, wait=10.0)
    assert servers.of_each[0] == ["store", "store", "denoise", "delete"]


def test_the_next_plane_is_opened_while_one_is_evaluated_and_never_a_third(
    servers: Servers, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is over after the second: their results are in order all the same."""
    collecting = threading.Event()

    class Watched(planes._Plane):
        """Says when its result is waited for, and so nothing else is done."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            result = self.result
            self.result = lambda: (collecting.set(), result())[1]

    def during(plane: int, _: object) -> None:
        if plane == 0:
            servers.wait_for("delete", 1)
            assert collecting.wait(SECONDS)
            assert ("store", 2) not in servers.asked

    monkeypatch.setattr(planes, "_Plane", Watched)
    servers.during = during
    run(volume)
    assert servers.written == [[0, 1, 2]]
    assert servers.at_once == 2


def test_steps_of_a_plane_are_shown_when_the_one_before_is_over(servers: Servers, volume: Path) -> None:
    servers.during = lambda plane, _: servers.wait_for("denoise", 1) if plane == 0 else None
    stages = run(volume)
    shown = [call.args[0].stage for call in stages.call_args_list]
    assert "evaluating 0" in shown
    assert "evaluating 1" not in shown
    told = [call.args for call in stages.tell.call_args_list if call.args[0] == "client"]
    assert told == [("client", f"plane {number} of {PLANES}") for number in (1, 2, 3)]


def test_a_server_without_a_place_for_a_second_plane_gets_one_after_the_other(servers: Servers, volume: Path) -> None:
    """Without --wait too: it is this file's own plane that the second waits for."""

    def during(plane: int, _: object) -> None:
        if plane == 0:
            servers.wait_for("denoise", 1)
        if plane > 0 and ("delete", plane - 1) not in servers.asked:
            raise BusyError("server A is busy", retry_seconds=1)

    servers.during = during
    run(volume)
    assert servers.written == [[0, 1, 2]]
    assert servers.of_each == [WHOLE, ["store", "denoise", "denoise", "delete"], WHOLE]


def test_a_server_that_is_busy_with_others_is_told_of_and_not_asked_again(servers: Servers, volume: Path) -> None:
    servers.verdicts = {1: BusyError("server A is busy", retry_seconds=1)}
    with pytest.raises(BusyError):
        run(volume)
    assert servers.of_each[0] == WHOLE
    assert servers.of_each[1] in (["store", "denoise", "delete"], ["store", "denoise", "denoise", "delete"])
    assert servers.of_each[2] in ([], WHOLE, ["store", "delete"])


@pytest.mark.parametrize(("window", "largest"), [(timedelta(minutes=59), 1 << 20), (timedelta(hours=24), 255)])
def test_large_planes_and_those_with_a_short_window_go_one_after_the_other(
    servers: Servers, volume: Path, monkeypatch: pytest.MonkeyPatch, window: timedelta, largest: int
) -> None:
    monkeypatch.setattr(planes, "LARGEST_AHEAD", largest)
    run(volume, window=window)
    assert servers.asked == [(what, plane) for plane in range(PLANES) for what in WHOLE]


def test_an_error_ends_what_is_under_way_and_deletes_it(servers: Servers, volume: Path) -> None:
    servers.verdicts = {0: AccessDenied("not for you")}
    servers.during = lambda plane, calls: servers.wait_for("denoise", 1) if plane == 0 else servers.hold(calls)
    with pytest.raises(AccessDenied):
        run(volume)
    assert servers.cancelled == [True]
    assert servers.of_each == [WHOLE, WHOLE, []]
    assert servers.written == []


def test_ctrl_c_deletes_both_planes(servers: Servers, volume: Path) -> None:
    """It comes while the main thread waits for a result."""

    def during(plane: int, calls: Calls | None) -> None:
        if plane == 1:
            servers.wait_for("denoise", 0)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        servers.hold(calls)

    servers.during = during
    with pytest.raises(KeyboardInterrupt):
        run(volume)
    assert servers.cancelled == [True, True]
    assert servers.of_each == [WHOLE, WHOLE, []]


def test_ctrl_c_while_the_next_plane_is_stored_deletes_the_one_before(servers: Servers, volume: Path) -> None:
    def storing(plane: int) -> None:
        if plane == 1:
            servers.wait_for("denoise", 0)
            raise KeyboardInterrupt

    servers.storing = storing
    servers.during = lambda _, calls: servers.hold(calls)
    with pytest.raises(KeyboardInterrupt):
        run(volume)
    assert servers.cancelled == [True]
    assert servers.of_each == [WHOLE, ["store"], []]


def test_ctrl_c_ends_a_plane_that_waits_for_a_busy_server(
    servers: Servers, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour, if nobody woke it."""
    monkeypatch.setattr(planes, "patiently", patiently)
    servers.verdicts = {0: BusyError("server A is busy", retry_seconds=3600)}
    waits = threading.Event()

    def storing(plane: int) -> None:
        if plane == 1:
            assert waits.wait(SECONDS)
            raise KeyboardInterrupt

    servers.storing = storing
    with pytest.raises(KeyboardInterrupt):
        run(volume, wait=1e6, see=lambda step: waits.set() if "nothing was begun" in step.stage else None)
    assert servers.of_each == [WHOLE, ["store"], []]
