import time

import grpc
import pytest
from grpc_health.v1 import health_pb2

from client import doctor
from client.config import load_config
from proto import checks, description
from proto import darkroom_pb2 as pb
from proto.checks import exit_code
from proto.fingerprints import readable
from proto.transport import fingerprint
from proto.version import VERSION, WIRE_VERSION
from protocols.errors import PeerUnavailableError
from protocols.identifiers import Role
from protocols.layers import Conv
from protocols.network import Network

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

    monkeypatch.setattr(checks.health_pb2_grpc, "HealthStub", Stub)
    return answers


@pytest.fixture(autouse=True)
def shown(monkeypatch, tmp_path):
    """Whose certificate each address shows: at first the right one's."""
    names = {"127.0.0.1:1": "server-a", "127.0.0.1:2": "server-b"}

    def certificate(name, address):
        if address not in names:
            raise PeerUnavailableError(f"{name} at {address} cannot be reached")
        return (tmp_path / "certs" / f"{names[address]}.crt").read_bytes()

    monkeypatch.setattr(checks, "shown_certificate", certificate)
    return names


@pytest.fixture(autouse=True)
def described(monkeypatch, servers):
    """What each server says of itself, beside the truth."""
    changes = {role: {} for role in Role}
    plenty = {"free_memory_bytes": 1 << 40, "free_disk_bytes": 1 << 40}

    class Stub:
        def __init__(self, channel):
            self._role = next(role for role, fake in servers.items() if fake.channel is channel)

        def Describe(self, _request, timeout):
            said = {"version": VERSION, "wire_version": WIRE_VERSION, "clock": time.time(), **plenty, **changes[self._role]}
            return pb.DescribeReply(**said)

    monkeypatch.setattr(description.rpc, "PartyStub", Stub)
    monkeypatch.setattr(checks, "free_memory", lambda: 1 << 40)
    monkeypatch.setattr(checks, "free_disk", lambda _folder: 1 << 40)
    return changes


@pytest.fixture(autouse=True)
def lasting(tmp_path, hospital, identity_writer):
    """Certificates that end later than the warning."""
    for name in ("server-a", "server-b", "client", "edge", "model-owner"):
        identity_writer(tmp_path, name, days=90)


@pytest.fixture
def models(servers):
    for fake in servers.values():
        fake.ListModels = lambda _request, timeout: pb.ListModelsReply(models=[pb.ModelEntry(name="base", network=NETWORK)])
    return servers


def failed(hospital):
    """By name. What the doctor promises: each has its problem and its fix."""
    found = {result.name: result for result in doctor.check(hospital) if not result.ok}
    assert [result for result in found.values() if not (result.problem and result.fix)] == []
    return found


def test_all_is_well(hospital, models, health):
    results = doctor.check(hospital)
    assert [result for result in results if not result.ok or (result.warning and result.name != "models")] == []
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
    assert "start the party" in problems["server A: reachable as client"].fix
    assert "is not ready" in problems["server B: reachable as edge"].problem


def test_a_server_that_refuses_this_identity(hospital, models, health, refused):
    for role in Role:
        health[role] = refused(grpc.StatusCode.PERMISSION_DENIED, "edge is not known here")
    problems = failed(hospital)
    assert len(problems) == 6
    assert all(problem.denied and not problem.unreachable for problem in problems.values())
    assert exit_code(problems.values()) == 6
    health[Role.A] = refused(grpc.StatusCode.UNAVAILABLE, "ssl: CERTIFICATE_VERIFY_FAILED")
    assert exit_code(failed(hospital).values()) == 4


def test_models_that_are_missing_or_at_one_server_only(hospital, models, health):
    models[Role.B].ListModels = lambda _request, timeout: pb.ListModelsReply()
    assert "one server alone holds base" in failed(hospital)["models"].problem
    models[Role.A].ListModels = models[Role.B].ListModels
    assert "darkroom model push" in failed(hospital)["models"].problem


def test_a_file_without_identity(tmp_path, hospital, models, health):
    text = hospital.path.read_text()
    hospital.path.write_text(text[: text.index("[client]")])
    problem = failed(load_config(hospital.path))["identity"]
    assert "holds no identity" in problem.problem
    assert "hospital.toml" in problem.fix


def warned(hospital):
    return {result.name: result for result in doctor.check(hospital) if result.warning}


def test_a_certificate_that_ends_soon_is_a_warning_with_the_days_left(hospital, tmp_path, models, health, identity_writer):
    identity_writer(tmp_path, "edge", days=20)
    identity_writer(tmp_path, "server-b", days=29)
    found = warned(hospital)
    assert "expires in 19 days" in found["edge: certificate and private key"].problem
    assert "expires in 28 days" in found["server B: certificate"].problem
    assert "--renew" in found["server B: certificate"].fix
    assert failed(hospital) == {}


def test_another_partys_certificate_is_named(hospital, models, health, shown):
    shown["127.0.0.1:2"] = "server-a"
    problem = failed(hospital)["server B: is who it should be"]
    assert "is that of server A, not server B's" in problem.problem
    assert not problem.unreachable


def test_a_strangers_certificate_is_shown_beside_the_pin(hospital, tmp_path, models, health, shown, identity_writer):
    identity_writer(tmp_path, "stranger")
    shown["127.0.0.1:1"] = "stranger"
    problem = failed(hospital)["server A: is who it should be"].problem
    assert "unknown here (it calls itself 'stranger')" in problem
    for name in ("stranger", "server-a"):
        pem = (tmp_path / "certs" / f"{name}.crt").read_bytes()
        assert readable(fingerprint(pem)) in problem


def test_each_of_several_addresses_is_looked_at(hospital, models, health, shown):
    name, text = "server A: is who it should be", hospital.path.read_text()

    def at(addresses):
        hospital.path.write_text(text.replace("127.0.0.1:1", addresses))
        return load_config(hospital.path)

    assert failed(at("127.0.0.1:1 127.0.0.1:8")) == {}
    assert warned(at("127.0.0.1:8 127.0.0.1:1"))[name].problem == "server A at 127.0.0.1:8 cannot be reached"
    nowhere = failed(at("127.0.0.1:8 127.0.0.1:9"))[name]
    assert nowhere.unreachable
    assert "127.0.0.1:8 cannot be reached; server A at 127.0.0.1:9 cannot" in nowhere.problem
    assert "127.0.0.1:2 shows a certificate that is that of server B" in failed(at("127.0.0.1:1 127.0.0.1:2"))[name].problem


@pytest.mark.parametrize(
    ("ahead", "result"), [(30, "ok"), (-30, "ok"), (120, "warning"), (-120, "warning"), (900, "failure"), (-900, "failure")]
)
def test_clocks(hospital, models, health, described, ahead, result):
    described[Role.B]["clock"] = time.time() + ahead
    name = "server B: clock"
    assert (name in warned(hospital), name in failed(hospital)) == (result == "warning", result == "failure")
    if result != "ok":
        (row,) = [row for row in doctor.check(hospital) if row.name == name]
        assert ("ahead of" if ahead > 0 else "behind") in row.problem


def test_versions(hospital, models, health, described):
    described[Role.A]["version"] = "0.0.1"
    described[Role.B]["wire_version"] = WIRE_VERSION + 1
    assert "0.0.1" in warned(hospital)["server A: version"].problem
    assert "same version everywhere" in failed(hospital)["server B: version"].fix


def test_scarce_memory_and_disk_are_warnings(hospital, models, health, described, monkeypatch):
    described[Role.B]["free_memory_bytes"] = 1 << 29
    described[Role.A]["free_disk_bytes"] = 0
    monkeypatch.setattr(checks, "free_memory", lambda: 1 << 20)
    found = warned(hospital)
    assert {"server B: free memory", "server A: free disk", "this machine: free memory"} <= set(found)
    assert "0.5 GiB" in found["server B: free memory"].problem
    assert failed(hospital) == {}


def test_push_ids_that_differ(hospital, models, health):
    def holds(push):
        return lambda _request, timeout: pb.ListModelsReply(models=[pb.ModelEntry(name="base", network=NETWORK, push_id=push)])

    models[Role.A].ListModels, models[Role.B].ListModels = holds("1" * 32), holds("2" * 32)
    assert "the push ids of base differ" in failed(hospital)["models"].problem
    models[Role.B].ListModels = holds("")
    assert "not masked" in warned(hospital)["models"].problem
    models[Role.B].ListModels = holds("1" * 32)
    assert "models" not in {**warned(hospital), **failed(hospital)}


def test_records_that_others_can_read_are_a_warning(hospital, models, health):
    hospital.objects.mkdir(mode=0o755)
    assert "mode 0755" in warned(hospital)["object records"].problem
