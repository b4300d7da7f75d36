"""An error as JSON: what a script that asked for JSON can rely on."""

import json

import pytest

from darkroom.error_report import error_report, told_as_json
from protocols.errors import AccessDenied, BadInputError, BusyError, ConfigurationError, PeerUnavailableError


@pytest.mark.parametrize(
    ("error", "kind", "code", "retry"),
    [
        (BusyError("server A is busy; try again in about 12 s", retry_seconds=12), "BusyError", 5, 12),
        (PeerUnavailableError("server B did not answer in time"), "PeerUnavailableError", 5, None),
        (BadInputError("not an image"), "BadInputError", 3, None),
        (AccessDenied("the window has closed"), "AccessDenied", 6, None),
    ],
)
def test_kind_code_and_when_to_try_again(error, kind, code, retry):
    assert error_report(error) == {
        "error": {"kind": kind, "message": str(error), "exit_code": code, "retry_after_seconds": retry}
    }


def test_it_is_written_where_json_was_asked_for_and_the_error_goes_on(tmp_path, capsys):
    path = tmp_path / "report.json"
    for asked in (str(path), "-", None):
        with pytest.raises(BusyError), told_as_json(asked):
            raise BusyError("full", retry_seconds=3)
    assert json.loads(path.read_text())["error"]["retry_after_seconds"] == 3
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text())


def test_nothing_is_written_without_an_error(tmp_path):
    with told_as_json(str(tmp_path / "report.json")):
        pass
    assert not (tmp_path / "report.json").exists()


def failing(path, by_then, error):
    with told_as_json(path) as done:
        by_then(done)
        raise error


def test_what_was_done_by_then_is_beside_the_error(capsys):
    with pytest.raises(BusyError):
        failing("-", lambda done: done.update(objects=["1"]), BusyError("full", retry_seconds=3))
    report = json.loads(capsys.readouterr().out)
    assert (report["objects"], report["error"]["exit_code"]) == (["1"], 5)


def test_a_report_that_cannot_be_written_hides_no_error(tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    down = PeerUnavailableError("server B did not answer in time")
    with pytest.raises(PeerUnavailableError, match="server B"):
        failing(str(folder / "report.json"), lambda done: folder.rmdir(), down)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"note: {folder}/report.json cannot be written")


@pytest.mark.parametrize("place", ["nowhere/report.json", "file/report.json", "folder", "closed/report.json"])
def test_nowhere_to_write_to_is_found_before_the_work(tmp_path, monkeypatch, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "closed").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("os.access", lambda folder, mode: folder != tmp_path / "closed")  # root may write anywhere
    worked = []
    with pytest.raises(ConfigurationError, match="cannot be written"), told_as_json(str(tmp_path / place)):
        worked.append(True)
    assert not worked


def test_a_folder_that_the_work_makes_need_not_be_there(tmp_path):
    out = tmp_path / "out"
    with told_as_json(str(out / "report.json"), makes=out):
        out.mkdir()
    with pytest.raises(ConfigurationError), told_as_json(str(out / "other" / "report.json"), makes=out):
        pass
