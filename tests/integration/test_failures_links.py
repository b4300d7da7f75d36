"""A link that is cut, or on which nothing moves any more, in each main step: a sentence in bounded time, and nothing left."""

import pytest

from client import acquisition, edge
from client.progress import Step
from client.records import ObjectRecord
from proto.exit_codes import ExitCode, exit_code_of
from protocols.errors import DarkroomError
from tests.integration.conftest import picture
from tests.integration.failing_site import HELD_BYTES, FailingSite

# By line: what it lets through from the start, so that the session cannot be over before the test gets its turn; the stage at
# which it fails; and what the sentence must name (either end of the link between the servers may be the first to find out).
LINKS = {
    "client-a": (HELD_BYTES, ("server A", "sending the result"), "server A at {client-a}, asked to denoise"),
    "client-b": (HELD_BYTES, ("server B", "sending the result"), "server B at {client-b}, asked to denoise"),
    "peer": (HELD_BYTES, ("server B", "evaluating"), "server A at {peer}, asked|the link to server B broke"),
    "dealer-a": (0, ("server B", "waiting for server A"), "the dealer at {dealer-a}, asked for fresh material"),
    "dealer-b": (0, ("server B", "dealing"), "the dealer at {dealer-b}, asked for its half of the material"),
}

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("repaired")]


@pytest.mark.parametrize("how", ["cut", "stall"])
@pytest.mark.parametrize("line", LINKS)
def test_a_link_fails_while_an_image_is_denoised(failing: FailingSite, large: ObjectRecord, line: str, how: str) -> None:
    held, stage, named = LINKS[line]
    failing.lines[line].stall(held)
    failed: list[str] = []

    def fail(shown: Step) -> None:
        if (shown.who, shown.stage) == stage and not failed:
            failed.append(line)
            failing.lines[line].cut() if how == "cut" else failing.lines[line].stall()

    with pytest.raises(DarkroomError) as caught:
        edge.denoise(failing.config, large.object_id, model="tiny", progress=fail)
    assert failed
    assert exit_code_of(caught.value) is ExitCode.PEER
    sentence = str(caught.value)
    addresses = {name: each.address for name, each in failing.lines.items()}
    assert any(each in sentence for each in named.format(**addresses).split("|")), sentence
    failing.require_no_session("server-a", "server-b")
    failing.repair()
    edge.denoise(failing.config, large.object_id, model="tiny")


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_a_link_fails_while_a_share_is_stored(failing: FailingSite, how: str) -> None:
    before = failing.stored()
    failing.lines["client-b"].stall(HELD_BYTES, sent=True)
    failed: list[str] = []

    def fail(shown: Step) -> None:
        if (shown.who, shown.stage) == ("server B", "receiving its share") and not failed:
            failed.append(how)
            failing.lines["client-b"].cut() if how == "cut" else failing.lines["client-b"].stall()

    with pytest.raises(DarkroomError) as caught:
        acquisition.store(failing.config, picture(512, 512), sigma=0.05, progress=fail)
    assert failed
    assert exit_code_of(caught.value) is ExitCode.PEER
    sentence = str(caught.value)
    assert sentence.startswith(f"server B at {failing.lines['client-b'].address}, asked to store its share: "), sentence
    assert "server B may still hold a share: run `darkroom delete " in sentence
    failing.repair()
    acquisition.delete(failing.config, sentence.rpartition("darkroom delete ")[2][:32])
    failing.wait_for_stored(before)
