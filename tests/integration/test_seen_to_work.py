"""What an operator sees of live processes: metrics, health, logs without secrets, and a shutdown that drains."""

import json
import os
import re
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from client import acquisition, edge
from client.config import HospitalConfig
from client.progress import Step
from client.records import ObjectRecord
from darkroom.child_processes import Child
from darkroom.simulation import Simulation
from proto import darkroom_pb2_grpc as rpc
from proto.readiness import ALIVE, DEALER, SERVER
from proto.status import RETRY_KEY
from proto.transport import open_channel
from protocols.identifiers import Identifier, Role, SessionId
from security.false_server_b import CALL_SECONDS, denoise_request
from security.needles import key_needles, search, text_needles
from security.site_access import identity, peer, restart
from tests.integration.conftest import picture

SECONDS = 300
SIGMA = 0.05
PARTIES = {"server-a": "a.ready", "server-b": "b.ready", "dealer": "dealer.ready"}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def scraped(cluster: Simulation, party: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """A party's samples: by name and label values."""
    stated = json.loads((cluster.site.folder(party) / PARTIES[party]).read_text())
    text = urllib.request.urlopen(f"http://{stated['metrics']}/metrics", timeout=SECONDS).read().decode()  # noqa: S310
    families = text_string_to_metric_families(text)
    return {(sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples}


def health(cluster: Simulation, party: str, service: str, *, caller: str = "client") -> int:
    with open_channel(identity(cluster, caller), peer(cluster, party)) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=CALL_SECONDS).status)


def test_metrics_count_what_was_done(cluster: Simulation, config: HospitalConfig) -> None:
    before = {party: scraped(cluster, party) for party in PARTIES}
    record = acquisition.store(config, picture(), sigma=SIGMA)
    result = edge.denoise(config, record.object_id, model="tiny")
    after = {party: scraped(cluster, party) for party in PARTIES}

    def grown(party: str, name: str, *labels: str) -> float:
        key = (f"darkroom_{name}", labels)
        return after[party][key] - before[party].get(key, 0.0)

    for role, party in ((Role.A, "server-a"), (Role.B, "server-b")):
        cost = result.costs[role]
        assert grown(party, "calls_total", "Denoise", "ok") == 1
        assert grown(party, "calls_total", "Store", "ok") == 1
        assert grown(party, "evaluation_seconds_count") == 1
        assert grown(party, "opened_bytes_total") == cost.sent_bytes > 0
        assert grown(party, "dealt_bytes_total") == cost.dealt_bytes > 0
        assert grown(party, "online_seconds_sum") == pytest.approx(cost.online_seconds)
        assert grown(party, "stored_objects") == 1
        assert grown("dealer", "dealt_bytes_total", role.value) == cost.dealt_bytes
        assert grown("dealer", "material_claimed_total", role.value) == 1
        assert after[party]["darkroom_queue_length", ()] == 0
        assert after[party]["process_resident_memory_bytes", ()] > 1e7
    assert grown("server-b", "store_bytes") > 8 * 17 * 23
    assert grown("dealer", "material_opened_total") == 1
    values = [value for samples in after.values() for _, labels in samples for value in labels]
    assert len(values) > 100
    assert [value for value in values if Identifier.PATTERN.search(value) or ":" in value or "/" in value] == []


@pytest.mark.parametrize(("party", "name"), [("server-a", SERVER), ("server-b", SERVER)])
def test_servers_are_alive_and_ready(cluster: Simulation, party: str, name: str) -> None:
    assert health(cluster, party, ALIVE) == SERVING
    assert health(cluster, party, name) == SERVING


def test_the_dealer_is_ready_for_those_who_may_call_it(cluster: Simulation) -> None:
    assert health(cluster, "dealer", DEALER, caller="server-a") == SERVING
    with pytest.raises(grpc.RpcError):
        health(cluster, "dealer", DEALER, caller="client")


class Session(threading.Thread):
    """One evaluation, large enough that something can be done meanwhile."""

    def __init__(self, config: HospitalConfig) -> None:
        super().__init__(daemon=True)
        self.record = acquisition.store(config, picture(768, 768), sigma=SIGMA)
        self.result: edge.Denoised | None = None
        self.evaluating = threading.Event()
        self._config = config

    def run(self) -> None:
        self.result = edge.denoise(self._config, self.record.object_id, model="tiny", progress=self._see)

    def _see(self, step: Step) -> None:
        if step.who == "server B" and step.stage == "dealing":
            self.evaluating.set()


@pytest.fixture
def server_b(cluster: Simulation) -> Iterator[Child]:
    """Server B's process; started again at the end."""
    child = next(child for child in reversed(cluster.processes._children) if child.name == "server-b")
    yield child
    child.popen.wait(SECONDS)
    restart(cluster, "server-b")


def test_a_server_that_stops_finishes_what_it_has_begun_and_begins_nothing_more(
    cluster: Simulation, config: HospitalConfig, server_b: Child
) -> None:
    small = acquisition.store(config, picture(), sigma=SIGMA)
    session = Session(config)
    workers = worker_ids(server_b.popen.pid)
    with open_channel(identity(cluster, "edge"), peer(cluster, "server-b")) as channel:
        grpc.channel_ready_future(channel).result(CALL_SECONDS)
        session.start()
        assert session.evaluating.wait(SECONDS)
        os.kill(server_b.popen.pid, signal.SIGTERM)
        status, metadata, details = refused(channel, small)
        assert status is grpc.StatusCode.ABORTED
        assert "server B is shutting down, and nothing was begun" in details
        assert int(metadata[RETRY_KEY]) > 0
        request = health_pb2.HealthCheckRequest(service=SERVER)
        assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=CALL_SECONDS).status == NOT_SERVING
        alive = health_pb2.HealthCheckRequest(service=ALIVE)
        assert health_pb2_grpc.HealthStub(channel).Check(alive, timeout=CALL_SECONDS).status == SERVING
        session.join(SECONDS)
    assert session.result is not None
    assert server_b.popen.wait(SECONDS) == 0
    assert not (cluster.site.folder("server-b") / "b.ready").exists()
    assert [worker for worker in workers if Path(f"/proc/{worker}").exists()] == []


def refused(channel: grpc.Channel, record: ObjectRecord) -> tuple[grpc.StatusCode, dict[str, str], str]:
    """What a new session is told: asked until the signal has reached the process."""
    while True:
        request = denoise_request(record, Role.B, SessionId.fresh(), "tiny")
        call = rpc.ServerStub(channel).Denoise(request, timeout=CALL_SECONDS)
        try:
            next(call)  # "waiting for server A": the signal has not come yet
            call.cancel()
        except grpc.RpcError:
            return call.code(), dict(call.trailing_metadata()), call.details()


def worker_ids(server: int) -> list[int]:
    return [process.pid for process in psutil.Process(server).children(recursive=True)]


def test_logs_tell_every_session_and_hold_no_secret(cluster: Simulation, config: HospitalConfig) -> None:
    """Of this and every earlier test on these processes, at DEBUG."""
    image = picture(seed=99)
    record = acquisition.store(config, image, sigma=SIGMA)
    edge.denoise(config, record.object_id, model="tiny")
    client = config.require_client()
    needles = key_needles("master key", client.noise_key.value)
    for name, key in (("key A", record.keys.key_a), ("key B", record.keys.key_b), ("nonce", record.nonce)):
        needles += key_needles(name, key)
    needles += text_needles("grant", record.grant) + text_needles("signature", record.grant.rsplit(".", 1)[1])
    needles += text_needles("private key", (cluster.site.private_key("edge")).read_text().splitlines()[1])
    for party in PARTIES:
        content = (cluster.site.logs / f"{party}.log").read_bytes()
        assert [f"{needle.secret} as {needle.encoding}" for needle in search(content, needles)] == []
        lines = [json.loads(line) for line in content.decode().splitlines() if line.startswith("{")]
        assert {"serving", "ready"} <= {line["event"] for line in lines}
        assert all({"timestamp", "level"} <= line.keys() for line in lines)
        if party.startswith("server"):
            ours = [line for line in lines if line.get("object") == str(record.object_id)]
            assert {"stored", "session begun", "evaluated"} <= {line["event"] for line in ours}
            (evaluated,) = [line for line in ours if line["event"] == "evaluated"]
            assert re.fullmatch(r"[0-9a-f]{32}", evaluated["session"])
            assert {"waited_seconds", "seconds", "online_seconds", "sent_bytes", "rounds"} <= evaluated.keys()
    assert search(record.keys.key_a.hex().encode(), needles)  # what is searched for can be found
