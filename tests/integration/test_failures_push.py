"""A push of a model that is broken off: a sentence, nothing half-written, one model in force at both servers, a next push works.

That is the older model, unless the sentence says that a server has taken the newer one, and to push again.
"""

import pytest

from client.records import ObjectRecord
from proto.exit_codes import ExitCode
from tests.darkroom_command import Darkroom
from tests.integration.failing_site import FailingSite
from tests.integration.test_failures_killed import NAMES, REMEDY
from tests.integration.wide_models import WideModels, broken

KILLED = [("upload", "server-b"), ("masks", "dealer"), ("A's opening", "server-a")]
ASKED = "asked to take its share of the weights: "
# By line: the step at which it is cut or stalled, and what the sentence must say.
LINKS = {
    "client-a": ("A's opening", f"server A at {{client-a}}, {ASKED}"),
    "client-b": ("upload", f"server B at {{client-b}}, {ASKED}"),
    "peer": ("A's opening", "server A at {peer}, asked for this session's order: "),
}

pytestmark = pytest.mark.timeout(600)


def push(darkroom: Darkroom, failing: FailingSite, wide: WideModels) -> str:
    """The newer model, in vain; what is said of it."""
    done = darkroom("model", "push", wide.newer, "--config", failing.hospital_file)
    assert (done.returncode, done.stdout) == (ExitCode.PEER, ""), done.stderr
    assert "Traceback" not in done.stderr
    sentence = done.stderr.rpartition("darkroom: ")[2]
    assert ASKED in sentence
    assert REMEDY.search(sentence), sentence
    return sentence


def require_only(
    darkroom: Darkroom, failing: FailingSite, wide: WideModels, record: ObjectRecord, *, newer: bool = False
) -> None:
    """Which of the two models is in force, with nothing left of the broken push; and that the next one works."""
    failing.require_no_session("server-a", "server-b")
    failing.wait_for_no_part()
    assert wide.in_force(failing, record) == (wide.newer if newer else wide.older)
    done = darkroom("model", "push", wide.newer, "--config", failing.hospital_file)
    assert done.returncode == 0, done.stderr
    assert wide.in_force(failing, record) == wide.newer


@pytest.mark.parametrize(("step", "party"), KILLED)
def test_killed_while_a_model_is_pushed(
    failing: FailingSite, wide: WideModels, told_apart: ObjectRecord, darkroom: Darkroom, step: str, party: str
) -> None:
    workers: list[int] = []
    with broken(failing, step, lambda: workers.extend(failing.kill(party))):
        sentence = push(darkroom, failing, wide)
    assert any(f"{NAMES[party]} at {address}, asked" in sentence for address in failing.addresses(party)), sentence
    assert "push it again" not in sentence
    failing.require_ended(workers)
    failing.repair()
    require_only(darkroom, failing, wide, told_apart)


@pytest.mark.parametrize("line", LINKS)
def test_a_link_is_cut_while_a_model_is_pushed(
    failing: FailingSite, wide: WideModels, told_apart: ObjectRecord, darkroom: Darkroom, line: str
) -> None:
    step, named = LINKS[line]
    with broken(failing, step, failing.lines[line].cut):
        sentence = push(darkroom, failing, wide)
    assert named.format(**{name: each.address for name, each in failing.lines.items()}) in sentence
    assert "push it again" not in sentence
    failing.repair()
    require_only(darkroom, failing, wide, told_apart)


@pytest.mark.parametrize(("line", "step"), [("client-b", "upload"), ("peer", "B's opening")])
def test_a_link_stalls_while_a_model_is_pushed(
    failing: FailingSite, wide: WideModels, told_apart: ObjectRecord, darkroom: Darkroom, line: str, step: str
) -> None:
    """B's opening: B has masked the newer model then, and A has not."""
    with broken(failing, step, lambda: None):  # nothing passes the line any more
        sentence = push(darkroom, failing, wide)
    assert LINKS[line][1].format(**{name: each.address for name, each in failing.lines.items()}) in sentence
    assert "push it again" not in sentence
    failing.repair()
    require_only(darkroom, failing, wide, told_apart)


def test_a_server_takes_a_model_and_cannot_say_so(
    failing: FailingSite, wide: WideModels, told_apart: ObjectRecord, darkroom: Darkroom
) -> None:
    def stall_the_answer() -> None:
        failing.lines["client-a"].stall()
        failing.lines["peer"].release()

    with broken(failing, "A's opening", stall_the_answer):
        sentence = push(darkroom, failing, wide)
    assert f"server A at {failing.lines['client-a'].address}, {ASKED}" in sentence
    assert "Server B has taken the model: push it again" in sentence
    failing.repair()
    require_only(darkroom, failing, wide, told_apart, newer=True)
