"""A folder's batch around a stand-in for the denoising of one file: no servers, no waiting."""

import json
import threading
from pathlib import Path

import pytest

from client.progress import Step
from darkroom.batch import Batch, Plan, State, Summary, View
from darkroom.batch_command import deciding_options
from darkroom.batch_files import find_images
from darkroom.batch_manifest import NAME, open_manifest
from darkroom.batch_view import summary_json, summary_lines
from darkroom.output import Teller
from darkroom.store_options import StoreOptions
from protocols.errors import (
    AccessDenied,
    BadInputError,
    BusyError,
    ConfigurationError,
    DarkroomError,
    IntegrityError,
    MaterialReusedError,
    NotFoundError,
    PeerUnavailableError,
    RemoteProtocolError,
    UnknownFormatError,
)

DICOM = b"\x00" * 128 + b"DICM"


class Hospital:
    """A folder of images, servers that answer as told, and a clock that does not run."""

    def __init__(self, root: Path, *names: str) -> None:
        self.folder, self.output = root / "in", root / "out"
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(DICOM + name.encode())
        self.errors: dict[str, list[BaseException]] = {}  # by image: what its next attempts raise
        self.checks: list[DarkroomError] = []  # what the next checks raise
        self.attempts: list[str] = []
        self.waits: list[float] = []
        self.options = {"model": "base", "sigma": None}
        self.interrupt_while_waiting = False

    def denoise(self, source: Path, target: Path, teller: Teller) -> None:
        name = str(source.relative_to(self.folder))
        self.attempts.append(name)
        teller(Step("client", "at work"))
        if self.errors.get(name):
            raise self.errors[name].pop(0)
        target.write_bytes(b"result of " + source.read_bytes())

    def check(self) -> None:
        if self.checks:
            raise self.checks.pop(0)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.interrupt_while_waiting

    def plan(self, *, redo: bool = False, jobs: int = 1) -> Plan:
        return Plan(self.folder, self.output, self.options, self.denoise, self.check, redo, jobs)

    def run(self, *, redo: bool = False, jobs: int = 1, view: View | None = None) -> Summary:
        self.attempts.clear()
        with open_manifest(self.output) as manifest:
            batch = Batch(self.plan(redo=redo, jobs=jobs), manifest, view or View(), wait=self.wait)
            return batch.run(find_images(self.folder, self.output))


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path, "a.dcm", "b/b.dcm", "c.dcm")


def states(summary: Summary) -> dict[str, State]:
    return {outcome.image.name: outcome.state for outcome in summary.outcomes}


def all_are(state: State) -> dict[str, State]:
    return dict.fromkeys(("a.dcm", "b/b.dcm", "c.dcm"), state)


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_image_then_none(hospital: Hospital, jobs: int) -> None:
    summary = hospital.run(jobs=jobs)
    assert states(summary) == all_are(State.DONE)
    assert summary.error is None
    assert (hospital.output / "b" / "b.dcm").read_bytes() == b"result of " + DICOM + b"b/b.dcm"
    assert states(hospital.run(jobs=jobs)) == all_are(State.ALREADY)
    assert hospital.attempts == []


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    "error",
    [BadInputError("x"), IntegrityError("x"), RemoteProtocolError("x"), NotFoundError("x")],
    ids=lambda e: type(e).__name__,
)
def test_one_failure_does_not_stop_the_rest(hospital: Hospital, error: DarkroomError, jobs: int) -> None:
    hospital.errors["a.dcm"] = [error]
    summary = hospital.run(jobs=jobs)
    assert states(summary) == {**all_are(State.DONE), "a.dcm": State.FAILED}
    assert summary.error is error
    assert not (hospital.output / "a.dcm").exists()


def test_the_first_failure_in_the_folders_order_decides(hospital: Hospital) -> None:
    hospital.errors = {"c.dcm": [BadInputError("c")], "b/b.dcm": [RemoteProtocolError("b")]}
    assert str(hospital.run().error) == "c"  # a folder's own files come before those of folders in it


def test_what_is_no_image_is_no_failure(hospital: Hospital) -> None:
    hospital.errors["a.dcm"] = [UnknownFormatError("no format")]
    summary = hospital.run()
    assert states(summary)["a.dcm"] is State.NO_IMAGE
    assert summary.error is None


def test_only_what_changed_is_done_again(hospital: Hospital) -> None:
    hospital.run()
    (hospital.folder / "a.dcm").write_bytes(DICOM + b"another")
    (hospital.output / "c.dcm").unlink()
    assert states(hospital.run()) == {"a.dcm": State.DONE, "c.dcm": State.DONE, "b/b.dcm": State.ALREADY}
    (hospital.output / "c.dcm").write_bytes(b"cut")
    hospital.run()
    assert hospital.attempts == ["c.dcm"]


def test_other_options_and_redo_do_all_again(hospital: Hospital) -> None:
    hospital.run()
    hospital.options = {"model": "base", "sigma": 0.1}
    hospital.run()
    assert len(hospital.attempts) == 3
    hospital.run(redo=True)
    assert len(hospital.attempts) == 3


def test_a_folder_that_was_moved_is_still_done(hospital: Hospital) -> None:
    hospital.run()
    hospital.folder = hospital.folder.rename(hospital.folder.with_name("moved"))
    assert states(hospital.run()) == all_are(State.ALREADY)


def test_files_of_others_are_not_replaced(hospital: Hospital) -> None:
    hospital.output.mkdir()
    (hospital.output / "a.dcm").write_bytes(b"precious")
    summary = hospital.run()
    assert states(summary)["a.dcm"] is State.FAILED
    assert (hospital.output / "a.dcm").read_bytes() == b"precious"


def test_results_of_another_folder_are_not_replaced(hospital: Hospital, tmp_path: Path) -> None:
    hospital.run()
    other = Hospital(tmp_path / "other", "a.dcm")
    (other.folder / "a.dcm").write_bytes(DICOM + b"of another patient")
    other.output = hospital.output
    summary = other.run()
    assert isinstance(summary.error, BadInputError)
    assert str(hospital.folder) in str(summary.error)
    assert b"another patient" not in (hospital.output / "a.dcm").read_bytes()


def test_a_damaged_result_is_not_asked_for_again_by_itself(hospital: Hospital) -> None:
    hospital.errors["a.dcm"] = [IntegrityError("damaged")]
    hospital.run()
    summary = hospital.run()
    assert hospital.attempts == []
    assert isinstance(summary.error, IntegrityError)
    assert states(hospital.run(redo=True)) == all_are(State.DONE)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    "error", [ConfigurationError("disk full"), AccessDenied("no"), MaterialReusedError("again")], ids=lambda e: type(e).__name__
)
def test_what_concerns_all_stops_early_and_is_resumed(hospital: Hospital, error: DarkroomError, jobs: int) -> None:
    hospital.errors = {name: [error] for name in all_are(State.DONE)}
    summary = hospital.run(jobs=jobs)
    assert summary.stopped is error
    assert summary.not_begun == 3
    hospital.errors.clear()
    assert states(hospital.run(jobs=jobs)) == all_are(State.DONE)


def test_servers_are_asked_before_the_first_image(hospital: Hospital) -> None:
    hospital.checks = [PeerUnavailableError("server A is down")]
    summary = hospital.run()
    assert str(summary.stopped) == "server A is down"
    assert hospital.attempts == []


def test_a_batch_that_is_done_asks_no_server(hospital: Hospital) -> None:
    hospital.run()
    hospital.checks = [PeerUnavailableError("server A is down")]
    assert hospital.run().error is None


def test_busy_is_waited_for_longer_each_time(hospital: Hospital) -> None:
    hospital.errors["a.dcm"] = [BusyError("busy") for _ in range(9)]
    assert states(hospital.run()) == all_are(State.DONE)
    assert hospital.waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_busy_server_says_how_long(hospital: Hospital) -> None:
    asked = [BusyError("busy"), PeerUnavailableError("about to stop"), BusyError("busy"), BusyError("busy")]
    for error, seconds in zip(asked, (7, 20, 0, 999), strict=True):
        error.retry_seconds = seconds
    hospital.errors["a.dcm"] = list(asked)
    assert states(hospital.run()) == all_are(State.DONE)
    assert hospital.waits == [7, 20, 1, 60]


def test_busy_for_ever_stops_the_batch(hospital: Hospital) -> None:
    hospital.errors["a.dcm"] = [BusyError("busy") for _ in range(999)]
    summary = hospital.run()
    assert isinstance(summary.stopped, PeerUnavailableError)
    assert 3600 < sum(hospital.waits) < 3800


def test_an_image_whose_planes_waited_for_an_hour_stops_the_batch(hospital: Hospital) -> None:
    """The waiting for a plane is inside the denoising of its file: only the clock shows it."""
    hospital.errors["a.dcm"] = [BusyError("busy")] * 2
    clock = iter([0.0, 3601.0])
    with open_manifest(hospital.output) as manifest:
        batch = Batch(hospital.plan(), manifest, View(), wait=hospital.wait, clock=lambda: next(clock))
        summary = batch.run(find_images(hospital.folder, hospital.output))
    assert isinstance(summary.stopped, PeerUnavailableError)
    assert hospital.waits == []


def test_a_server_that_restarts_is_waited_for(hospital: Hospital) -> None:
    gone = PeerUnavailableError("server B is gone")
    hospital.errors["c.dcm"] = [gone]
    down = iter([None, gone, gone, None])

    def check() -> None:
        error = next(down)
        if error is not None:
            raise error

    hospital.check = check  # type: ignore[method-assign]
    assert states(hospital.run()) == all_are(State.DONE)
    assert hospital.waits == [1, 2]


def test_servers_out_of_reach_stop_the_batch(hospital: Hospital) -> None:
    gone = PeerUnavailableError("server B is gone")
    hospital.errors["c.dcm"] = [gone]
    answers = iter([None])

    def check() -> None:
        if next(answers, gone):
            raise gone

    hospital.check = check  # type: ignore[method-assign]
    summary = hospital.run()
    assert summary.stopped is gone
    assert states(summary) == {"a.dcm": State.DONE}
    assert 60 < sum(hospital.waits) < 130


def test_an_image_whose_calls_break_off_is_given_up(hospital: Hospital) -> None:
    hospital.errors["a.dcm"] = [PeerUnavailableError(f"attempt {count}") for count in range(9)]
    summary = hospital.run()
    assert states(summary) == {**all_are(State.DONE), "a.dcm": State.FAILED}
    assert hospital.attempts.count("a.dcm") == 3
    assert isinstance(summary.error, PeerUnavailableError)


def test_a_model_that_goes_away_stops_the_batch(hospital: Hospital) -> None:
    hospital.errors["a.dcm"] = [NotFoundError("no such model")]
    answers = iter([None])

    def check() -> None:
        if next(answers, "gone"):
            raise NotFoundError("the model is gone")

    hospital.check = check  # type: ignore[method-assign]
    assert str(hospital.run().stopped) == "the model is gone"


def test_interrupted_here_then_resumed(hospital: Hospital) -> None:
    hospital.errors["c.dcm"] = [KeyboardInterrupt()]
    summary = hospital.run()
    assert summary.interrupted
    assert states(summary) == {"a.dcm": State.DONE}
    assert states(hospital.run()) == {**all_are(State.DONE), "a.dcm": State.ALREADY}


def test_interrupted_while_it_waits(hospital: Hospital) -> None:
    hospital.errors["a.dcm"] = [BusyError("busy")]
    hospital.interrupt_while_waiting = True
    summary = hospital.run()
    assert summary.interrupted
    assert summary.not_begun == 3


def test_threads_end_their_images_when_interrupted(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the main thread only; the images under way end at their next step, and none is begun."""
    batches: list[Batch] = []
    both = threading.Barrier(2)
    ended: list[str] = []

    def denoise(source: Path, target: Path, teller: Teller) -> None:
        both.wait(60)
        batches[0]._interrupted.set()
        try:
            teller(Step("client", "next step"))
        except KeyboardInterrupt:
            ended.append(source.name)
            teller.tell("note", "deleted")  # deleting is not interrupted
            raise

    hospital.denoise = denoise  # type: ignore[method-assign]
    with open_manifest(hospital.output) as manifest:
        batches.append(Batch(hospital.plan(jobs=2), manifest, View()))
        summary = batches[0].run(find_images(hospital.folder, hospital.output))
    assert summary.interrupted
    assert summary.not_begun == 3
    assert sorted(ended) == ["a.dcm", "c.dcm"]


def test_a_bug_in_a_thread_is_not_hidden(hospital: Hospital) -> None:
    hospital.errors["a.dcm"] = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        hospital.run(jobs=2)


def test_a_torn_line_costs_one_image(hospital: Hospital) -> None:
    hospital.run()
    manifest = hospital.output / NAME
    assert manifest.stat().st_mode & 0o777 == 0o600
    manifest.write_bytes(manifest.read_bytes()[:-20])
    hospital.run()
    assert len(hospital.attempts) == 1
    hospital.run()
    assert hospital.attempts == []


def test_a_killed_batch_leaves_no_half_file(hospital: Hospital) -> None:
    hospital.output.mkdir()
    left = hospital.output / ".a.dcm.0123456789abcdef.part"
    left.write_bytes(b"half")
    hospital.run()
    assert sorted(path.name for path in hospital.output.iterdir()) == sorted([NAME, "a.dcm", "b", "c.dcm"])


def test_a_batch_that_goes_on_fills_the_series_that_it_began(hospital: Hospital) -> None:
    series = []
    for options in (hospital.options, hospital.options, {**hospital.options, "sigma": 0.1}):
        with open_manifest(hospital.output) as manifest:
            series.append(manifest.derivation(options, anonymous=False).series_uid("1.2.3"))
    assert series[0] == series[1] != series[2]


def test_two_batches_in_one_folder(hospital: Hospital) -> None:
    with open_manifest(hospital.output), pytest.raises(ConfigurationError, match="another batch"):
        hospital.run()


def test_a_source_that_goes_away_meanwhile(hospital: Hospital) -> None:
    found = find_images(hospital.folder, hospital.output)
    (hospital.folder / "a.dcm").unlink()
    with open_manifest(hospital.output) as manifest:
        summary = Batch(hospital.plan(), manifest, View(), wait=hospital.wait).run(found)
    assert states(summary) == {**all_are(State.DONE), "a.dcm": State.FAILED}


def test_the_summary_names_every_failure(hospital: Hospital) -> None:
    hospital.errors["a.dcm"] = [BadInputError("too \x1b[31mred")]
    hospital.errors["b/b.dcm"] = [ConfigurationError("the disk is full")]
    summary = hospital.run()
    assert summary_lines(summary) == [
        "3 files: 1 done, 0 already done, 0 no image, 1 failed, 1 not begun",
        "failed: a.dcm: too \\x1b[31mred",
        "Run the same command again to go on.",
    ]
    report = json.loads(json.dumps(summary_json(summary, hospital.plan())))
    assert report["counts"] == {"done": 1, "already": 0, "no_image": 0, "failed": 1}
    assert report["stopped"] == "the disk is full"
    assert report["files"][0] == {"name": "a.dcm", "state": "failed", "reason": "too \x1b[31mred", "exit_code": 3}


def test_another_engine_is_another_result() -> None:
    engines = ("", "masked", "crypten")
    options = [deciding_options("base", StoreOptions("keyed", None, None, None, None, engine=engine)) for engine in engines]
    assert [each["engine"] for each in options] == list(engines)
    assert all(first != second for first, second in zip(options, options[1:], strict=False))
