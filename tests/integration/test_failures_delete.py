"""A deletion that is broken off between the two servers: what is said, what is left, and that deleting again finishes it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from client import acquisition
from client.progress import Step
from client.records import ObjectRecord
from proto.exit_codes import ExitCode, exit_code_of
from protocols.errors import DarkroomError, NotFoundError
from tests.integration.conftest import picture
from tests.integration.failing_site import FailingSite, wait_until
from tests.integration.test_failures_killed import REMEDY

ASKED = "asked to delete its share: "

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("repaired")]


@pytest.fixture
def record(failing: FailingSite) -> Iterator[ObjectRecord]:
    stored = acquisition.store(failing.config, picture(), sigma=0.05)
    yield stored
    with pytest.raises(NotFoundError, match="no server and no record knows object"):
        acquisition.delete(failing.config, stored.object_id)


def shares(failing: FailingSite, record: ObjectRecord) -> list[str]:
    return [name[0] for name in failing.stored() if str(record.object_id) in name]


def require_said(caught: DarkroomError, failing: FailingSite, record: ObjectRecord, letter: str) -> None:
    """Which server, where, that the other has done it, and what to do."""
    sentence = str(caught)
    assert sentence.startswith(f"server {letter.upper()} at {failing.lines[f'client-{letter}'].address}, {ASKED}"), sentence
    assert REMEDY.search(sentence), sentence
    other = {"a": "B", "b": "A"}[letter]
    assert f"server {other} deleted its share, and the record stays: run `darkroom delete {record.object_id}` again" in sentence
    assert exit_code_of(caught) is ExitCode.PEER
    assert (failing.config.objects / f"{record.object_id}.json").exists()


def test_server_b_is_killed_when_a_has_deleted_its_share(failing: FailingSite, record: ObjectRecord) -> None:
    def kill(shown: Step) -> None:
        assert (shown.who, shown.stage) == ("server A", "deleted its share")
        failing.kill("server-b")

    with pytest.raises(DarkroomError) as caught:
        acquisition.delete(failing.config, record.object_id, progress=kill)
    require_said(caught.value, failing, record, "b")
    assert shares(failing, record) == ["b"]
    failing.repair()
    acquisition.delete(failing.config, record.object_id)
    assert shares(failing, record) == []


def test_server_a_is_killed_while_it_is_asked(failing: FailingSite, record: ObjectRecord) -> None:
    """B, which is asked after it, deletes its share."""
    failing.lines["client-a"].stall()

    def kill() -> None:
        wait_until(lambda: failing.lines["client-a"].holding, "server A was not asked")
        failing.kill("server-a")

    with ThreadPoolExecutor(max_workers=1) as pool:
        killed = pool.submit(kill)
        with pytest.raises(DarkroomError) as caught:
            acquisition.delete(failing.config, record.object_id)
        killed.result()
    require_said(caught.value, failing, record, "a")
    assert shares(failing, record) == ["a"]
    failing.repair()
    acquisition.delete(failing.config, record.object_id)
    assert shares(failing, record) == []
