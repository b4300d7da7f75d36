"""What the checks of hospital, servers and dealer have in common: kinds of failure, their fixes, and the exit code of all."""

import pytest

from proto.checks import CheckResult, Concern, attempt, exit_code
from protocols.errors import AccessDenied, BusyError, CertificateError, ConfigurationError, DarkroomError, PeerUnavailableError

HERE = ConfigurationError("a file is missing")
AWAY = PeerUnavailableError("nobody answers")
DENIED = AccessDenied("this identity may not")


def tried(error: DarkroomError) -> CheckResult:
    def step() -> None:
        raise error

    return attempt("name", step, "the fix")


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([HERE], 4),
        ([CertificateError("another one")], 4),
        ([AWAY], 5),
        ([BusyError("full")], 5),
        ([DENIED], 6),
        ([DENIED, DENIED], 6),
        ([DENIED, AWAY], 5),
        ([DENIED, HERE], 4),
        ([AWAY, HERE], 4),
    ],
)
def test_the_exit_code_is_that_of_all_failures(errors: list[DarkroomError], code: int) -> None:
    well = [attempt("well", lambda: None, "no fix"), attempt("warned", lambda: Concern("old", "renew"), "no fix")]
    assert exit_code([*well, *map(tried, errors)]) == code


def test_each_kind_of_failure_has_its_fix() -> None:
    assert tried(HERE).fix == "the fix"
    assert "start the party" in tried(AWAY).fix
    assert "this identity's certificate" in tried(DENIED).fix
    assert (tried(DENIED).denied, tried(DENIED).unreachable) == (True, False)
    assert (tried(AWAY).denied, tried(AWAY).unreachable) == (False, True)
    assert (tried(HERE).denied, tried(HERE).unreachable) == (False, False)
