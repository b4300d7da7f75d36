"""What a server tells its operator: figures, log, and whether it is ready; none of it a secret. No sockets."""

import json
import re
from dataclasses import replace

import pytest
import torch

from protocols.errors import PeerUnavailableError
from protocols.identifiers import Identifier, ObjectId, Role
from server import service as service_module
from server.config import ServerConfig
from server.service import ServerService
from tests.server import held_sessions
from tests.server.fake_workers import FakeWorkers
from tests.server.held_sessions import Call, sample
from tests.server.test_service import HOSPITAL, ByName, Identity, Refused, request, store

peer, service = held_sessions.peer, held_sessions.service
evaluations, full = held_sessions.evaluations, held_sessions.full


def test_what_was_done_is_counted(service, evaluations, full):
    for name, expected in (("queue_limit", 3), ("queue_length", 2), ("evaluating", 1), ("stored_objects", 1)):
        assert sample(service, f"darkroom_{name}") == expected, name
    for _ in full:
        evaluations.release.release()
    for call in full:
        call.ends()
    for name, expected in (
        ("queue_length", 0),
        ("evaluating", 0),
        ("evaluation_seconds_count", 3),
        ("wait_seconds_count", 3),
        ("online_seconds_sum", 4.5),
        ("offline_seconds_sum", 1.5),
        ("opened_bytes_total", 300),
        ("dealt_bytes_total", 120),
    ):
        assert sample(service, f"darkroom_{name}") == expected, name
    assert sample(service, "darkroom_calls_total", call="Denoise", outcome="ok") == 3
    assert sample(service, "darkroom_store_bytes") > 32
    service._workers.on_restart()
    assert sample(service, "darkroom_worker_restarts_total") == 1


def test_no_label_can_hold_an_identifier_or_a_name_that_a_caller_chose(service, evaluations, full):
    """Twin: a label with the object's id is found."""
    for _ in full:
        evaluations.release.release()
    for call in full:
        call.ends()
    with pytest.raises(Refused):
        store(service, Role.A, object_id="doe^john")
    assert labels_beyond_ours(service) == []
    service.metrics.calls.labels(call="c" * 32, outcome="ok").inc()
    assert labels_beyond_ours(service) == ["c" * 32]


OUR_LABELS = re.compile(r"[A-Z][A-Za-z]+|[a-z]+|server [AB]|\d\.\d+\.\d+\S*|not installed|\d+\.\d+|\+Inf")


def labels_beyond_ours(service):
    values = [
        value for family in service.metrics.registry.collect() for sample in family.samples for value in sample.labels.values()
    ]
    assert len(values) > 10
    return [value for value in sorted(set(values)) if not OUR_LABELS.fullmatch(value) or Identifier.PATTERN.search(value)]


def test_the_log_tells_each_session_and_no_secret(service, evaluations, capsys, monkeypatch):
    """Twin: a line with the key is found."""
    monkeypatch.setenv("DARKROOM_LOG", "DEBUG")
    from proto.logs import configure_logs, structlog

    configure_logs()
    try:
        evaluations.release.release()
        key = bytes(range(100, 132))
        assert Call(service, 1, noise_key=key, sigma_share=123456789).ends().error is None
        text = capsys.readouterr().err
        assert secrets_in(text, key) == []
        lines = [json.loads(line) for line in text.splitlines()]
        events = [line["event"] for line in lines]
        assert events == ["session begun", "stage", "stage", "evaluated", "call ended"]
        assert {line.get("session") for line in lines} == {f"{1:032x}"}
        assert {line.get("object") for line in lines} == {str(ObjectId("a" * 32))}
        evaluated = lines[3]
        assert (evaluated["rounds"], evaluated["sent_bytes"], evaluated["dealt_bytes"]) == (3, 100, 40)
        assert evaluated["seconds"] >= 0
        structlog.get_logger("twin").info("opened", key=key.hex())
        assert secrets_in(capsys.readouterr().err, key) == [key.hex()]
    finally:
        structlog.reset_defaults()


def secrets_in(text, key):
    hidden = [key.hex(), repr(key)[2:20], "123456789", request().grant[:40], str(torch.zeros(1))[:7]]
    return [secret for secret in hidden if secret in text]


def test_a_server_is_ready_when_its_peers_are_alive_and_a_worker_is_warm(service, monkeypatch):
    asked = []
    monkeypatch.setattr(service_module, "require_alive", lambda channel, name: asked.append(name))
    service.require_ready()
    assert asked == ["the dealer"]
    monkeypatch.setattr(service._workers, "require_warm", raising(PeerUnavailableError("the warm worker process had ended")))
    with pytest.raises(PeerUnavailableError, match="warm worker"):
        service.require_ready()


def test_server_b_needs_server_a_too(tmp_path, monkeypatch, peer):
    identity = Identity(peer.certificate, b"no key: no handshake is made here")
    config = ServerConfig(Role.B, identity, tmp_path, HOSPITAL.public_key(), peer, replace(peer, name="server A"))
    service = ServerService(config, ByName(), FakeWorkers())
    asked = []
    monkeypatch.setattr(service_module, "require_alive", lambda channel, name: asked.append(name))
    service.require_ready()
    assert asked == ["the dealer", "server A"]


def raising(error):
    def action(*_):
        raise error

    return action
