"""No dealer, or one server down, when a command begins: which, where, asked for what; and nothing left behind."""

import socket
from collections.abc import Callable, Iterator

import pytest

from client import acquisition, edge
from client.config import load_config
from client.model_file import Model
from client.model_owner import list_models, push_model
from client.records import ObjectRecord
from proto.addresses import SEPARATOR
from proto.exit_codes import ExitCode, exit_code_of
from protocols.errors import DarkroomError
from tests.integration.conftest import picture
from tests.integration.failing_site import FailingSite

pytestmark = pytest.mark.timeout(600)

Command = Callable[[FailingSite, ObjectRecord, Model], object]
COMMANDS: dict[str, Command] = {
    "store": lambda site, record, model: acquisition.store(site.config, picture(), sigma=0.05),
    "denoise": lambda site, record, model: edge.denoise(site.config, record.object_id, model="tiny"),
    "delete": lambda site, record, model: acquisition.delete(site.config, record.object_id),
    "model push": lambda site, record, model: push_model(site.config, model),
    "model list": lambda site, record, model: list_models(site.config),
}
ASKED = {
    "store": "asked for its models: ",
    "denoise": "asked to denoise: ",
    "delete": "asked to delete its share: ",
    "model push": "asked to take its share of the weights: ",
    "model list": "asked for its models: ",
}


@pytest.fixture
def record(failing: FailingSite) -> Iterator[ObjectRecord]:
    stored = acquisition.store(failing.config, picture(), sigma=0.05)
    yield stored
    failing.repair()
    acquisition.delete(failing.config, stored.object_id)


@pytest.mark.parametrize("letter", "ab")
@pytest.mark.parametrize("command", COMMANDS)
def test_one_server_is_down(failing: FailingSite, record: ObjectRecord, model: Model, command: str, letter: str) -> None:
    line = failing.lines[f"client-{letter}"]
    records, stored = sorted(failing.config.objects.iterdir()), failing.stored()
    line.cut()
    with pytest.raises(DarkroomError) as caught:
        COMMANDS[command](failing, record, model)
    sentence = str(caught.value)
    assert f"server {letter.upper()} at {line.address}, {ASKED[command]}" in sentence
    assert "Is it running" in sentence
    assert exit_code_of(caught.value) is ExitCode.PEER
    failing.require_no_session("server-a", "server-b")
    assert sorted(failing.config.objects.iterdir()) == records
    if command == "delete":
        assert "deleted its share, and the record stays: run `darkroom delete" in sentence
    else:
        assert failing.stored() == stored


@pytest.mark.parametrize("command", ["denoise", "model push"])
def test_no_dealer(failing: FailingSite, record: ObjectRecord, model: Model, command: str) -> None:
    for line in ("dealer-a", "dealer-b"):
        failing.lines[line].cut()
    with pytest.raises(DarkroomError) as caught:
        COMMANDS[command](failing, record, model)
    sentence = str(caught.value)
    assert f"server A at {failing.lines['client-a'].address}, {ASKED[command]}" in sentence
    assert f"the dealer at {failing.lines['dealer-a'].address}, asked for fresh " in sentence
    assert "Is it running" in sentence
    assert exit_code_of(caught.value) is ExitCode.PEER
    failing.require_no_session("server-a", "server-b")


def test_a_server_that_is_down_at_its_first_address(failing: FailingSite, record: ObjectRecord) -> None:
    """Its next one is taken; where that fails too, the sentence names both."""
    line = failing.lines["client-a"]
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        addresses = (f"127.0.0.1:{reserved.getsockname()[1]}", line.address)
        path = failing.hospital_file.with_name("two-addresses.toml")
        path.write_text(failing.hospital_file.read_text().replace(line.address, SEPARATOR.join(addresses)))
        config = load_config(path)
        edge.denoise(config, record.object_id, model="tiny")
        line.cut()
        with pytest.raises(DarkroomError) as caught:
            edge.denoise(config, record.object_id, model="tiny")
    sentence = str(caught.value)
    assert f"server A at {addresses[0]} or {addresses[1]}, {ASKED['denoise']}" in sentence
    assert "Is it running" in sentence
    assert exit_code_of(caught.value) is ExitCode.PEER
    failing.require_no_session("server-a", "server-b")
