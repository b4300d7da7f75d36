import grpc
import pytest
from grpc_health.v1 import health_pb2

from client import doctor
from client.config import load_config
from proto import darkroom_pb2 as pb
from protocols.identifiers import Role
from protocols.network import Conv, Network

NETWORK = Network((Conv("only", "image", 1, 3, padding=1),)).to_json()


@pytest.fixture
def health(monkeypatch, servers):
    """What each server's health service answers; an exception is raised."""
    answers = {}

    class Stub:
        def __init__(self, channel):
            self._role = next(role for role, fake in servers.items() if fake.channel is channel)

        def Check(self, _request, timeout):
            answer = answers.get(self._role, health_pb2.HealthCheckResponse.SERVING)
            if isinstance(answer, grpc.RpcError):
                raise answer
            return health_pb2.HealthCheckResponse(status=answer)

    monkeypatch.setattr(doctor.health_pb2_grpc, "HealthStub", Stub)
    return answers


@pytest.fixture
def models(servers):
    for fake in servers.values():
        fake.ListModels = lambda _request, timeout: pb.ListModelsReply(models=[pb.ModelEntry(name="base", network=NETWORK)])
    return servers


def failed(hospital):
    return {result.name: result for result in doctor.check(hospital) if not result.ok}


def test_all_is_well(hospital, models, health):
    results = doctor.check(hospital)
    assert [result.name for result in results if not result.ok] == []
    assert {"server A: reachable as edge", "models", "client: noise key", "object records"} <= {result.name for result in results}
    assert not hospital.objects.exists()


def test_files_are_named_with_the_fix(hospital, tmp_path, models, health, identity_writer):
    (tmp_path / "noise.key").chmod(0o644)
    identity_writer(tmp_path, "edge", days=-1)
    (tmp_path / "certs" / "server-b.crt").unlink()
    problems = failed(hospital)
    assert set(problems) == {"client: noise key", "edge: certificate and private key", "server B: certificate"}
    assert "chmod 600" in problems["client: noise key"].problem
    assert "expired on" in problems["edge: certificate and private key"].problem


def test_servers_that_are_down_or_not_serving(hospital, models, health, refused):
    health[Role.A] = refused(grpc.StatusCode.UNAVAILABLE, "connection refused")
    health[Role.B] = health_pb2.HealthCheckResponse.NOT_SERVING
    problems = failed(hospital)
    assert len(problems) == 6
    assert "connection refused" in problems["server A: reachable as client"].problem
    assert "start the server" in problems["server A: reachable as client"].fix
    assert "does not serve" in problems["server B: reachable as edge"].problem


def test_models_that_are_missing_or_at_one_server_only(hospital, models, health):
    models[Role.B].ListModels = lambda _request, timeout: pb.ListModelsReply()
    assert "one server alone holds base" in failed(hospital)["models"].problem
    models[Role.A].ListModels = models[Role.B].ListModels
    assert "darkroom model push" in failed(hospital)["models"].problem


def test_a_file_without_identity(tmp_path, hospital, models, health):
    text = hospital.path.read_text()
    hospital.path.write_text(text[: text.index("[client]")])
    assert "holds no identity" in failed(load_config(hospital.path))["identity"].problem
