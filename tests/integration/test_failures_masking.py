"""A session that has to mask the model's weights first, broken off in that: said, nothing left, and the next one masks anew."""

from collections.abc import Callable
from pathlib import Path

import pytest

from client import edge
from client.model_file import load_model
from client.model_owner import push_model
from client.records import ObjectRecord
from proto.exit_codes import ExitCode
from protocols.errors import RemoteProtocolError
from tests.darkroom_command import Darkroom
from tests.integration.failing_site import FailingSite
from tests.integration.test_failures_killed import NAMES, REMEDY
from tests.integration.wide_models import NAME, WideModels, broken

KILLED = [("masks", "dealer"), ("A's opening", "server-a"), ("A's opening", "server-b")]
DENOISE = "asked to denoise: "
# Step, line, and what the sentence must say. B's opening: B has masked the weights then, and A has not.
CUT = [
    ("masks", "dealer-b", f"server B at {{client-b}}, {DENOISE}the dealer at {{dealer-b}}, asked for its half of the masks: "),
    ("B's opening", "peer", "server A at {peer}, asked for this session's order: "),
]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def unmasked(failing: FailingSite, wide: WideModels, told_apart: ObjectRecord) -> ObjectRecord:
    """The object, where server A has forgotten the masked form of the model's weights, as after a restart.

    It forgets it when B does not accept an order: here because B's disk holds an older upload for a moment.
    """
    held = failing.site.folder("server-b") / "b.store" / "models" / f"{NAME}.share"
    before = held.read_bytes()
    push_model(failing.config, load_model(wide.older))
    after = held.read_bytes()
    held.write_bytes(before)
    with pytest.raises(RemoteProtocolError, match="different uploads"):
        edge.denoise(failing.config, told_apart.object_id, model=NAME)
    held.write_bytes(after)
    return told_apart


def denoise(
    failing: FailingSite, record: ObjectRecord, darkroom: Darkroom, folder: Path, step: str, act: Callable[[], object]
) -> str:
    """Broken at a step of the masking; what is said. Nothing is written."""
    opened = failing.masks_opened()
    with broken(failing, step, act):
        options = ("-o", folder / "out.npy", "--model", NAME, "--config", failing.hospital_file)
        done = darkroom("denoise", record.object_id, *options)
    assert failing.masks_opened() == opened + 1
    assert (done.returncode, done.stdout) == (ExitCode.PEER, ""), done.stderr
    assert "Traceback" not in done.stderr
    sentence = done.stderr.rpartition("darkroom: ")[2]
    assert "(while " in sentence, sentence
    assert REMEDY.search(sentence), sentence
    assert list(folder.iterdir()) == []
    return sentence


@pytest.mark.parametrize(("step", "party"), KILLED)
def test_killed_while_the_model_is_masked(
    failing: FailingSite, wide: WideModels, unmasked: ObjectRecord, darkroom: Darkroom, tmp_path: Path, step: str, party: str
) -> None:
    workers: list[int] = []
    sentence = denoise(failing, unmasked, darkroom, tmp_path, step, lambda: workers.extend(failing.kill(party)))
    assert any(f"{NAMES[party]} at {address}, asked" in sentence for address in failing.addresses(party)), sentence
    failing.require_no_session(*{"server-a", "server-b"} - {party})
    failing.require_ended(workers)
    failing.repair()
    opened = failing.masks_opened()
    assert wide.in_force(failing, unmasked) == wide.older
    assert failing.masks_opened() == opened + 1


@pytest.mark.parametrize(("step", "line", "named"), CUT, ids=[line for _, line, _ in CUT])
def test_a_link_is_cut_while_the_model_is_masked(
    failing: FailingSite,
    wide: WideModels,
    unmasked: ObjectRecord,
    darkroom: Darkroom,
    tmp_path: Path,
    step: str,
    line: str,
    named: str,
) -> None:
    sentence = denoise(failing, unmasked, darkroom, tmp_path, step, failing.lines[line].cut)
    assert named.format(**{name: each.address for name, each in failing.lines.items()}) in sentence
    failing.require_no_session("server-a", "server-b")
    failing.repair()
    opened = failing.masks_opened()
    assert wide.in_force(failing, unmasked) == wide.older
    assert failing.masks_opened() == opened + 1
