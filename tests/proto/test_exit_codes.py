"""The exit code table covers the whole error tree, and each class by exactly one row."""

from collections.abc import Iterator

import pytest

from proto.exit_codes import TABLE, ExitCode, exit_code_of
from protocols import errors
from protocols.errors import DarkroomError

EXPECTED = {
    "BadInputError": 3,
    "EncodingRangeError": 3,
    "NetworkDescriptionError": 3,
    "NotFoundError": 3,
    "UnknownFormatError": 3,
    "ConfigurationError": 4,
    "CertificateError": 4,
    "PeerUnavailableError": 5,
    "BusyError": 5,
    "SessionBrokenError": 5,
    "AccessDenied": 6,
    "IntegrityError": 7,
    "ProtocolError": 8,
    "LocalProtocolError": 8,
    "RemoteProtocolError": 8,
    "MaterialReusedError": 8,
}


def tree(kind: type[DarkroomError]) -> Iterator[type[DarkroomError]]:
    """All classes below `kind` that protocols.errors defines."""
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from tree(below)


def test_every_error_has_the_code_of_the_contract() -> None:
    assert {kind.__name__: int(exit_code_of(kind("message"))) for kind in tree(DarkroomError)} == EXPECTED


@pytest.mark.parametrize("kind", list(tree(DarkroomError)))
def test_exactly_one_row_is_meant(kind: type[DarkroomError]) -> None:
    assert sum(issubclass(kind, row) for row, _ in TABLE) == 1


def test_codes_are_those_of_the_contract() -> None:
    assert {code.value for code in ExitCode} == {0, 2, 3, 4, 5, 6, 7, 8, 130}
