"""Many at once, against live processes: each its own right answer, in turn; beyond the queue: busy, and when to try again.

And two: the second is prepared while the first is evaluated.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from client import acquisition, edge
from client.config import HospitalConfig, load_config
from client.model_file import Model, load_model, save_model
from client.model_owner import push_model
from client.origin import SourceImage
from client.progress import Step
from client.records import ObjectRecord
from client.report import float_estimate
from darkroom.simulation import Simulation
from proto import darkroom_pb2 as pb
from proto.exit_codes import ExitCode
from protocols.errors import DarkroomError
from protocols.identifiers import Role, SessionId
from protocols.layers import Conv, Gate
from protocols.network import Network
from security.false_server_b import EdgeCall, FalseServerB, denoise_request
from server.config import WAITING
from tests.darkroom_command import Darkroom
from tests.integration.conftest import NETWORK, picture

SIGMA = 0.05
TOLERANCE = 1 / 1023  # as for one client
SECONDS = 500  # eight evaluations in a row, on a loaded machine
OTHER = Network((Conv("first", "image", 4, 3, padding=1), Gate("gate", "first"), Conv("last", "gate", 1, 1)), weight_frac_bits=12)


@pytest.fixture(scope="module")
def other(cluster: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A second model, pushed: half the image, so far from what the first makes of it."""
    generator = torch.Generator().manual_seed(7)
    weights = {name: 0.01 * torch.randn(shape, generator=generator) for name, shape in OTHER.parameter_shapes().items()}
    weights["first.weight"][:2, 0, 1, 1] += 1.0
    weights["first.bias"][2:] += 1.0
    weights["last.weight"] += 0.25
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_model(path, OTHER, weights, bound=8.0)
    model = load_model(path)
    push_model(load_config(cluster.hospital_file), model)
    return model


class Client(threading.Thread):
    """One edge, with an image and a model of its own."""

    def __init__(self, config: HospitalConfig, image: SourceImage, model: Model) -> None:
        super().__init__(daemon=True)
        self.image, self.model = image, model
        self.record = acquisition.store(config, image, sigma=SIGMA)
        self.result: edge.Denoised | None = None
        self.error: DarkroomError | None = None
        self.waits: list[str] = []
        self.waiting = threading.Event()
        self._config = config

    def run(self) -> None:
        try:
            self.result = edge.denoise(self._config, self.record.object_id, model=self.model.name, progress=self._see)
        except DarkroomError as error:
            self.error = error

    def _see(self, step: Step) -> None:
        if step.who == "server A" and step.stage.startswith("waiting: "):
            self.waits.append(step.stage)
            self.waiting.set()

    def off(self, reference: Model, image: SourceImage) -> float:
        """The largest difference from what a model makes of an image in plaintext."""
        assert self.result is not None
        return float((self.result.pixels - float_estimate(reference, image.pixels, self.result.sigma)).abs().max())


@pytest.fixture
def held(cluster: Simulation, config: HospitalConfig, other: Model) -> Iterator[FalseServerB]:
    """A session that has server A's turn and keeps it: its server B is ours, and never gets ready."""
    record, session = acquisition.store(config, picture(), sigma=SIGMA), SessionId.fresh()
    call = EdgeCall(cluster, denoise_request(record, Role.A, session, "tiny"))
    fake = FalseServerB(cluster, session, NETWORK)
    fake.follow_masking()
    fake.accept(pb.PeerOrder.KIND_EVALUATE)
    yield fake
    fake.close()
    call.join()


@pytest.mark.timeout(600)
def test_a_session_is_prepared_while_the_one_before_is_evaluated(cluster: Simulation, config: HospitalConfig) -> None:
    """Both wait for what their server B, which is ours, does; the second gets to openings only when the first is over."""
    record = acquisition.store(config, picture(), sigma=SIGMA)
    sessions = [SessionId.fresh() for _ in range(2)]
    with FalseServerB(cluster, sessions[0], NETWORK) as first:
        calls = [EdgeCall(cluster, denoise_request(record, Role.A, sessions[0], "tiny"))]
        first.follow_masking()
        get_ready(first, record)
        first.receive_opening(0)
        with FalseServerB(cluster, sessions[1], NETWORK, boot=first.boot) as second:
            calls.append(EdgeCall(cluster, denoise_request(record, Role.A, sessions[1], "tiny")))
            get_ready(second, record)
            assert calls[1].reaches("waiting: 1 ahead")
            assert calls[1].stages[:2] == ["waiting for server B", "dealing"]
            assert "evaluating" not in calls[1].stages
            first.close()
            assert calls[1].reaches("evaluating")
            second.receive_opening(0)
    for call in calls:
        call.join()


def get_ready(fake: FalseServerB, record: ObjectRecord) -> None:
    """Claim the material that A orders, and hear that A has its half."""
    fake.claim(fake.accept(pb.PeerOrder.KIND_EVALUATE), record.height, record.width)
    fake.ready()
    assert next(fake.incoming).WhichOneof("content") == "ready"


@pytest.mark.timeout(600)
def test_eight_clients_get_their_own_results_in_turn_and_the_ninth_is_told_when_to_come_again(
    request: pytest.FixtureRequest,
    cluster: Simulation,
    config: HospitalConfig,
    model: Model,
    other: Model,
    held: FalseServerB,
    darkroom: Darkroom,
    tmp_path: Path,
) -> None:
    clients = [Client(config, picture(seed=number), (model, other)[number % 2]) for number in range(WAITING)]
    for client in clients:
        client.start()
        assert client.waiting.wait(SECONDS), client.error
    assert [client.waits[0].split(",")[0] for client in clients] == [
        f"waiting: {number} ahead" for number in range(1, WAITING + 1)
    ]

    options = ("--json", "-", "--model", "tiny", "--config", cluster.hospital_file)
    refused = darkroom("denoise", clients[0].record.object_id, "-o", tmp_path / "out.npy", *options)
    assert refused.returncode == ExitCode.PEER
    error = json.loads(refused.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == ("BusyError", 5)
    assert error["retry_after_seconds"] > 0
    assert f"server A is busy: {WAITING + 1} sessions are under way or waiting; try again in about" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "out.npy").exists()

    patient = patient_client(clients[0].record, tmp_path / "patient.npy", cluster)
    request.addfinalizer(patient.kill)
    seen = patient.stderr.readline() if patient.stderr else ""
    while seen and "nothing was begun" not in seen:
        seen = patient.stderr.readline() if patient.stderr else ""
    assert "server A is busy" in seen

    held.close()
    for client in clients:
        client.join(SECONDS)
        assert client.error is None
    for client in clients:
        assert client.off(client.model, client.image) <= TOLERANCE
        others = [another for another in clients if another is not client]
        assert all(client.off(client.model, another.image) > 10 * TOLERANCE for another in others)
        assert client.off(other if client.model is model else model, client.image) > 10 * TOLERANCE
    assert patient.communicate(timeout=SECONDS)[0].strip() == str(tmp_path / "patient.npy")
    assert patient.returncode == ExitCode.OK
    again = torch.from_numpy(np.load(tmp_path / "patient.npy"))
    assert clients[0].result is not None
    assert float((again - clients[0].result.pixels).abs().max()) <= 2 * TOLERANCE


def patient_client(record: ObjectRecord, output: Path, cluster: Simulation) -> "subprocess.Popen[str]":
    """A command that waits for a busy server."""
    options = ("--wait", SECONDS, "--model", "tiny", "--config", cluster.hospital_file)
    command = [sys.executable, "-m", "darkroom", "denoise", *map(str, (record.object_id, "-o", output, *options))]
    environment = {**os.environ, "COLUMNS": "400", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
