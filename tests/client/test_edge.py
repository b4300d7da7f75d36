from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
import torch

from client import both_servers, records
from client.acquisition import store
from client.edge import denoise, denoise_requests
from client.keys import MasterKey
from client.records import RecordState
from protocols.errors import (
    AccessDenied,
    BadInputError,
    ConfigurationError,
    IntegrityError,
    NotFoundError,
    PeerUnavailableError,
    RemoteProtocolError,
)
from protocols.fixed_point import encode
from protocols.identifiers import ObjectId, PushId, Role
from protocols.packing import NoiseKeys, PackingMode


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(both_servers, "GRACE_SECONDS", 0.05)


@pytest.fixture
def noisy(image):
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(64, 80, generator=generator, dtype=torch.float64) * 0.05
    ramp = torch.arange(80, dtype=torch.float64).expand(64, 80) / 100 + 0.1
    return replace(image, pixels=torch.round((ramp + noise) * 65536) / 65536)


def untouched(servers):
    return all("Denoise" not in fake.calls for fake in servers.values())


@pytest.mark.parametrize("packing", [PackingMode.KEYED, PackingMode.GAUSSIAN])
def test_what_was_stored_comes_back_exactly(hospital, servers, image, packing):
    record = store(hospital, image, packing=packing, sigma=0.1)
    steps = []
    result = denoise(hospital, str(record.object_id), model="base", progress=steps.append)
    assert torch.equal(result.pixels, image.pixels)
    assert torch.equal(result.estimate, image.pixels)
    assert (result.mode, result.model, result.engine, result.blind) == (packing, "base", "fake", None)
    assert (result.online_seconds, result.offline_seconds, result.costs[Role.A].rounds) == (2.0, 0.0, 3)
    assert result.download_bytes > 2 * 8 * image.pixels.numel()
    assert result.upload_bytes > record.upload_bytes
    assert {"server A", "server B", "edge"} == {step.who for step in steps}
    assert "evaluating" in {step.stage for step in steps}


def test_each_server_gets_one_session_its_own_key_and_its_own_share_of_sigma(hospital, servers, image):
    record = store(hospital, image, sigma=0.1)
    for _ in range(2):
        denoise(hospital, record.object_id, model="base", sigma=0.2)
    (a, again), (b, _) = (servers[role].requests for role in Role)
    assert a.session_id == b.session_id != again.session_id
    assert (a.noise_key, b.noise_key) == (record.keys.key_a, record.keys.key_b)
    total = (a.sigma_share + b.sigma_share) % 2**64
    assert total == int(encode(torch.tensor([0.2]))[0])
    assert a.sigma_share != again.sigma_share
    assert a.grant == b.grant == record.grant


def test_sigma_shares_span_the_ring(image, hospital, servers):
    record = store(hospital, image, sigma=0.1)
    shares = [denoise_requests(record, record.keys, "m", 0.1)[Role.A].sigma_share for _ in range(64)]
    assert min(shares) < -(2**60)
    assert max(shares) > 2**60


def test_blind_no_server_gets_a_key_and_the_edge_fuses(hospital, servers, noisy):
    record = store(hospital, noisy, packing=PackingMode.BLIND, packing_sigma=0.08, sigma=0.05)
    # A stand-in for a denoiser: grey everywhere.
    servers[Role.A].tamper = lambda share: torch.zeros_like(share)
    servers[Role.B].tamper = lambda share: encode(torch.full(tuple(share.shape), 0.5, dtype=torch.float64))
    result = denoise(hospital, record.object_id, model="base")
    assert servers[Role.A].requests[-1].noise_key == servers[Role.B].requests[-1].noise_key == b""
    assert result.sigma == pytest.approx((0.05**2 + 0.08**2) ** 0.5)
    assert result.blind is not None
    assert torch.equal(result.estimate, torch.full((64, 80), 0.5, dtype=torch.float64))
    assert result.blind.correlation > result.blind.threshold
    assert 0.0 < result.blind.weight < 1.0
    expected = result.blind.weight * 0.5 + (1 - result.blind.weight) * noisy.pixels
    assert torch.allclose(result.pixels, expected, atol=1e-9)


def test_blind_a_result_that_kept_the_noise_fails_the_residual_test(hospital, servers, noisy):
    record = store(hospital, noisy, packing=PackingMode.BLIND, sigma=0.05)
    with pytest.raises(IntegrityError, match="residual"):  # the identity leaves no residual
        denoise(hospital, record.object_id, model="base")
    assert all(fake.streams[-1].exhausted and not fake.streams[-1].cancelled for fake in servers.values())


def test_a_wrong_key_is_refused_before_anything_is_sent(hospital, servers, image):
    record = store(hospital, image)
    with pytest.raises(IntegrityError, match="wrong key"):
        denoise(hospital, record.object_id, model="base", master_key=MasterKey(bytes(32)))
    damaged = replace(record, keys=NoiseKeys(record.keys.key_b, record.keys.key_a))
    records.save_record(hospital.objects, damaged)
    with pytest.raises(IntegrityError, match="wrong key"):
        denoise(hospital, record.object_id, model="base")
    assert untouched(servers)
    right = hospital.require_client().noise_key
    assert torch.equal(denoise(hospital, record.object_id, model="base", master_key=right).pixels, image.pixels)


@pytest.mark.parametrize("error", [1 << 40, -(1 << 62), int(2.2 * 65536)])
def test_a_damaged_result_is_found_here_and_no_server_sees_it(hospital, servers, image, error):
    def tamper(share):
        share[0, 19, 29] += error
        return share

    record = store(hospital, image)
    servers[Role.A].tamper = tamper
    with pytest.raises(IntegrityError, match="1 of 600 pixels"):
        denoise(hospital, record.object_id, model="base")
    assert all(fake.streams[0].exhausted and not fake.streams[0].cancelled for fake in servers.values())
    assert [fake.calls.count("Denoise") for fake in servers.values()] == [1, 1]


def test_servers_that_used_different_pushes_are_refused(hospital, servers, image):
    record = store(hospital, image)
    servers[Role.B].push_id = PushId("6" * 32)
    with pytest.raises(RemoteProtocolError, match="5{32}.*6{32}"):
        denoise(hospital, record.object_id, model="base")


def test_the_error_names_server_and_stage_and_the_other_call_is_ended(hospital, servers, image, refused):
    record = store(hospital, image)
    servers[Role.B].fail["Denoise"] = refused(grpc.StatusCode.PERMISSION_DENIED, "the window is closed")
    with pytest.raises(
        AccessDenied, match=r"server B at b.example:7600, asked to denoise: the window is closed \(while evaluating\)"
    ):
        denoise(hospital, record.object_id, model="base")
    servers[Role.A].fail["Denoise"] = refused(grpc.StatusCode.UNAVAILABLE, "server B went away")
    with pytest.raises(AccessDenied, match="server B"):
        denoise(hospital, record.object_id, model="base")


def test_refusals_that_send_nothing(hospital, servers, image):
    record = store(hospital, image)
    with pytest.raises(NotFoundError, match="check the id"):
        denoise(hospital, ObjectId.fresh(), model="base")
    with pytest.raises(BadInputError, match="object id"):
        denoise(hospital, "x", model="base")
    with pytest.raises(BadInputError, match="55/255"):
        denoise(hospital, record.object_id, model="base", sigma=1.0)
    with pytest.raises(ConfigurationError, match=r"no \[edge\]"):
        denoise(replace(hospital, edge=None), record.object_id, model="base")
    records.save_record(hospital.objects, replace(record, state=RecordState.PENDING))
    with pytest.raises(NotFoundError, match="cut off"):
        denoise(hospital, record.object_id, model="base")
    assert untouched(servers)


def test_an_unreachable_server(hospital, servers, image, refused):
    record = store(hospital, image, window=timedelta(minutes=1))
    servers[Role.A].fail["Denoise"] = refused(grpc.StatusCode.UNAVAILABLE, "connection refused")
    with pytest.raises(PeerUnavailableError, match=r"server A at a.example:7600, asked to denoise: .*connection refused"):
        denoise(hospital, record.object_id, model="base")
