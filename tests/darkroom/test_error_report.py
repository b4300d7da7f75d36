"""An error as JSON: what a script that asked for JSON can rely on."""

import json

import pytest

from darkroom.error_report import error_report, told_as_json
from protocols.errors import AccessDenied, BadInputError, BusyError, PeerUnavailableError


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
