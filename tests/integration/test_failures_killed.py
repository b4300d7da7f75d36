"""SIGKILL of each party in each main step: a sentence that names it, no worker and no file left, and the next request works.

The dealer is not missed any more once the servers evaluate: both have all of their material by then.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from client import acquisition, edge
from client.model_file import Model
from client.progress import Step
from client.records import ObjectRecord
from client.report import float_estimate
from darkroom.output import Stages
from proto.exit_codes import ExitCode, exit_code_of
from protocols.errors import DarkroomError
from tests.darkroom_command import Darkroom
from tests.integration.conftest import picture
from tests.integration.failing_site import HELD_BYTES, LARGE_SIDE, FailingSite, wait_until

# The stage at which to kill, and the line that is held so that the step cannot be over before the signal arrives.
STEPS = {
    "waiting": (("server B", "waiting for server A"), "dealer-a", 0),
    "dealing": (("server B", "dealing"), "dealer-b", 0),
    "evaluating": (("server B", "evaluating"), "peer", HELD_BYTES),
    "result from A": (("server A", "sending the result"), "client-a", HELD_BYTES),
    "result from B": (("server B", "sending the result"), "client-b", HELD_BYTES),
}
NAMES = {"server-a": "server A", "server-b": "server B", "dealer": "the dealer"}
REMEDY = re.compile("Is it running, and is the address right|Is it still running. Then try again")
KILLED = [
    ("waiting", "server-a"),
    ("waiting", "server-b"),
    ("waiting", "dealer"),
    ("dealing", "server-a"),
    ("dealing", "server-b"),
    ("dealing", "dealer"),
    ("evaluating", "server-a"),
    ("evaluating", "server-b"),
    ("result from A", "server-a"),
    ("result from B", "server-b"),
]

TOLERANCE = 1 / 1023  # of the range: a grey level of 10 bits

# Parties are started again, and the machine may be busy.
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("repaired")]


@pytest.mark.parametrize(("step", "party"), KILLED)
def test_killed_while_an_image_is_denoised(
    failing: FailingSite,
    large: ObjectRecord,
    darkroom: Darkroom,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    step: str,
    party: str,
) -> None:
    stage, line, held = STEPS[step]
    failing.lines[line].stall(held)
    killed: list[str] = []
    workers: list[int] = []
    show = Stages.__call__

    def kill(stages: Stages, shown: Step) -> None:
        if (shown.who, shown.stage) == stage and not killed:
            killed.append(party)
            workers.extend(failing.kill(party))
        show(stages, shown)

    monkeypatch.setattr(Stages, "__call__", kill)
    command = ("denoise", str(large.object_id), "-o", tmp_path / "out.npy", "--model", "tiny", "--config", failing.hospital_file)
    done = darkroom(*command)
    assert killed
    assert bool(workers) is (party != "dealer")
    assert (done.returncode, done.stdout) == (ExitCode.PEER, ""), done.stderr
    sentence = done.stderr.rpartition("darkroom: ")[2]
    assert any(f"{NAMES[party]} at {address}, asked" in sentence for address in failing.addresses(party)), sentence
    assert "(while " in sentence, sentence
    assert REMEDY.search(sentence), sentence
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    failing.require_no_session(*{"server-a", "server-b"} - {party})
    failing.require_ended(workers)
    failing.repair()
    assert darkroom(*command).returncode == 0


def test_a_dealer_killed_while_the_servers_evaluate_is_missed_by_the_next_session(
    failing: FailingSite, large: ObjectRecord, model: Model
) -> None:
    stage, line, held = STEPS["evaluating"]
    failing.lines[line].stall(held)
    killed: list[str] = []

    def kill(shown: Step) -> None:
        if (shown.who, shown.stage) == stage and not killed:
            killed.append("dealer")
            failing.kill("dealer")
            failing.lines[line].release()

    result = edge.denoise(failing.config, large.object_id, model="tiny", progress=kill)
    assert killed
    reference = float_estimate(model, picture(LARGE_SIDE, LARGE_SIDE).pixels, large.sigma)
    assert float((result.estimate - reference).abs().max()) <= TOLERANCE
    failing.require_no_session("server-a", "server-b")
    with pytest.raises(DarkroomError) as caught:
        edge.denoise(failing.config, large.object_id, model="tiny")
    assert exit_code_of(caught.value) is ExitCode.PEER
    assert f"the dealer at {failing.lines['dealer-a'].address}, asked for fresh material" in str(caught.value)
    assert REMEDY.search(str(caught.value)), str(caught.value)
    failing.require_no_session("server-a", "server-b")
    failing.repair()
    edge.denoise(failing.config, large.object_id, model="tiny")


def test_killed_while_a_share_is_stored(failing: FailingSite) -> None:
    before, records = failing.stored(), sorted(failing.config.objects.iterdir())
    failing.lines["client-b"].stall(HELD_BYTES, sent=True)  # so that the share cannot be whole
    killed: list[str] = []

    def kill(shown: Step) -> None:
        if (shown.who, shown.stage) == ("server B", "receiving its share") and not killed:
            killed.append(shown.who)
            failing.kill("server-b")

    with pytest.raises(DarkroomError) as caught:
        acquisition.store(failing.config, picture(512, 512), sigma=0.05, progress=kill)
    assert killed
    sentence = str(caught.value)
    assert exit_code_of(caught.value) is ExitCode.PEER
    assert sentence.startswith(f"server B at {failing.lines['client-b'].address}, asked to store its share: "), sentence
    object_id = re.search(r"server B may still hold a share: run `darkroom delete ([0-9a-f]{32})`", sentence)
    assert object_id, sentence
    failing.repair()
    acquisition.delete(failing.config, object_id[1])  # as the sentence says
    assert failing.stored() == before
    assert sorted(failing.config.objects.iterdir()) == records


def test_server_a_is_killed_while_its_share_is_stored(failing: FailingSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked first: B has nothing yet."""
    before, records = failing.stored(), sorted(failing.config.objects.iterdir())
    line, save_header = failing.lines["client-a"], acquisition.records.save_header

    def hold(*arguments: Any) -> None:  # the last step before A is asked
        save_header(*arguments)
        line.stall()

    def kill() -> None:
        wait_until(lambda: line.holding, "server A was not asked")
        failing.kill("server-a")

    monkeypatch.setattr(acquisition.records, "save_header", hold)
    with ThreadPoolExecutor(max_workers=1) as pool:
        killed = pool.submit(kill)
        with pytest.raises(DarkroomError) as caught:
            acquisition.store(failing.config, picture(), sigma=0.05)
        killed.result()
    sentence = str(caught.value)
    assert exit_code_of(caught.value) is ExitCode.PEER
    assert sentence.startswith(f"server A at {line.address}, asked to store its share: "), sentence
    assert REMEDY.search(sentence), sentence
    object_id = re.search(r"server A may still hold a share: run `darkroom delete ([0-9a-f]{32})`", sentence)
    assert object_id, sentence
    failing.repair()
    acquisition.delete(failing.config, object_id[1])  # as the sentence says
    assert failing.stored() == before
    assert sorted(failing.config.objects.iterdir()) == records


def test_server_a_that_is_killed_once_it_has_its_share_is_not_missed(failing: FailingSite, model: Model) -> None:
    """What it has said that it stored is on its disk."""
    image = picture()

    def kill(shown: Step) -> None:
        if shown.who == "server A" and shown.stage.startswith("stored its share"):
            failing.kill("server-a")

    record = acquisition.store(failing.config, image, sigma=0.05, progress=kill)
    failing.repair()
    result = edge.denoise(failing.config, record.object_id, model="tiny")
    assert float((result.estimate - float_estimate(model, image.pixels, record.sigma)).abs().max()) <= TOLERANCE
    acquisition.delete(failing.config, record.object_id)
