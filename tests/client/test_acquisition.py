import errno
import os
from dataclasses import replace
from datetime import timedelta

import grpc
import jwt
import pytest
import torch

from client import acquisition, records
from client.acquisition import DEFAULT_PACKING_SIGMA, check_noise_level, delete, pack_object, renew_grant, store
from client.keys import MasterKey
from client.nonce_ledger import FILE
from client.records import RecordState
from protocols.errors import (
    AccessDenied,
    BadInputError,
    ConfigurationError,
    EncodingRangeError,
    NotFoundError,
    PeerUnavailableError,
)
from protocols.identifiers import ObjectId, Role
from protocols.packing import PackingMode
from protocols.ring import from_bytes
from protocols.sharing import expand_seed

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def files(hospital):
    """All but the ledger of nonces, which outlives objects."""
    return sorted({path.name for path in hospital.objects.iterdir()} - {FILE}) if hospital.objects.exists() else []


@pytest.mark.parametrize("packing", PackingMode)
def test_store_puts_a_share_at_each_server_and_a_record_here(hospital, servers, image, packing):
    steps = []
    record = store(hospital, image, packing=packing, sigma=0.1, progress=steps.append)
    assert record.state is RecordState.STORED
    header_a, words_a = servers[Role.A].objects[str(record.object_id)]
    header_b, words_b = servers[Role.B].objects[str(record.object_id)]
    assert (len(header_a.seed), words_a, header_b.seed, len(words_b)) == (32, b"", b"", 20 * 30 * 8)
    sigma_p = 0.0 if packing is PackingMode.KEYED else DEFAULT_PACKING_SIGMA
    assert header_a.packing_sigma == header_b.packing_sigma == record.packing_sigma == sigma_p
    assert records.render_record(records.load_stored(hospital.objects, record.object_id)) == records.render_record(record)
    assert record.upload_bytes > len(words_b)
    assert {step.who for step in steps} == {"client", "server A", "server B"}


def test_neither_share_nor_their_sum_is_the_image(hospital, servers, image):
    record = store(hospital, image, sigma=0.1)
    header, _ = servers[Role.A].objects[str(record.object_id)]
    share_a = expand_seed(header.seed, (1, 20, 30))
    share_b = from_bytes(servers[Role.B].objects[str(record.object_id)][1], (1, 20, 30))
    for words in (share_a, share_b, share_a + share_b):
        assert float(words.double().abs().median()) > 2.0**60


def test_the_grant_is_for_this_object_edge_and_window(hospital, servers, image):
    key = hospital.require_client().signing_key.value.public_key()
    config = replace(hospital, edge_name="ward7")
    record = store(config, image, window=timedelta(minutes=5))
    claims = jwt.decode(record.grant, key, algorithms=["EdDSA"], audience="darkroom")
    assert (claims["obj"], claims["sub"]) == (str(record.object_id), "ward7")
    assert claims["exp"] - claims["nbf"] == 360
    renewed = renew_grant(config, str(record.object_id), timedelta(hours=2))
    later = jwt.decode(renewed.grant, key, algorithms=["EdDSA"], audience="darkroom")
    assert later["exp"] > claims["exp"]
    assert records.load_stored(hospital.objects, record.object_id).grant == record.grant


def test_every_upload_has_its_own_nonce_id_and_keys(image):
    master = MasterKey(bytes(range(32)))
    packed = [pack_object(image, master, packing=PackingMode.KEYED, sigma=0.1) for _ in range(2)]
    first, second = (item.record for item in packed)
    assert first.nonce != second.nonce
    assert first.object_id != second.object_id
    assert first.keys.key_a != second.keys.key_a
    assert not torch.equal(packed[0].shares.words, packed[1].shares.words)


def test_sigma_is_estimated_where_it_is_not_given(image):
    packed = pack_object(image, MasterKey(bytes(range(32))), packing=PackingMode.KEYED)
    assert packed.record.sigma < 1e-3  # the test image is a ramp


@pytest.mark.parametrize(
    ("options", "pixel", "error"),
    [
        ({}, 2.5, EncodingRangeError),
        ({}, -1.5, EncodingRangeError),
        ({"sigma": 56 / 255}, 0.5, BadInputError),
        ({"sigma": -0.1}, 0.5, BadInputError),
        ({"sigma": float("nan")}, 0.5, BadInputError),
        ({"packing_sigma": 0.1}, 0.5, BadInputError),
        ({"packing": PackingMode.GAUSSIAN, "packing_sigma": 0.0}, 0.5, EncodingRangeError),
        ({"packing": PackingMode.BLIND, "packing_sigma": 5.0, "sigma": 0.0}, 0.5, BadInputError),
        ({"packing": PackingMode.BLIND, "sigma": 50 / 255}, 0.5, BadInputError),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(hospital, servers, image, options, pixel, error):
    image.pixels[3, 3] = pixel
    with pytest.raises(error):
        store(hospital, image, **{"sigma": 0.1, **options})
    assert [fake.calls for fake in servers.values()] == [[], []]
    assert files(hospital) == []


def test_blind_noise_levels_add_as_variances():
    assert check_noise_level(0.03, PackingMode.BLIND, 0.04) == pytest.approx(0.05)
    assert check_noise_level(0.03, PackingMode.GAUSSIAN, 0.04) == 0.03


@pytest.mark.parametrize("role", Role)
def test_a_server_that_is_down_is_found_before_anything_is_stored(hospital, servers, image, refused, role):
    servers[role].fail["ListModels"] = refused(UNAVAILABLE)
    with pytest.raises(PeerUnavailableError, match=f"server {role.value}"):
        store(hospital, image)
    assert [fake.objects for fake in servers.values()] == [{}, {}]
    assert files(hospital) == []


def test_a_failed_store_leaves_nothing(hospital, servers, image, refused):
    servers[Role.B].fail["Store"] = refused(grpc.StatusCode.PERMISSION_DENIED, "not you")
    with pytest.raises(AccessDenied, match="server B at b.example:7600, asked to store its share: not you; nothing was stored"):
        store(hospital, image)
    assert servers[Role.A].calls[-1] == "Delete"
    assert [fake.objects for fake in servers.values()] == [{}, {}]
    assert files(hospital) == []


def test_what_cannot_be_taken_back_is_said_and_stays_on_record(hospital, servers, image, refused):
    servers[Role.B].fail["Store"] = refused(UNAVAILABLE)
    servers[Role.A].fail["Delete"] = refused(UNAVAILABLE)
    with pytest.raises(PeerUnavailableError, match=r"server A may still hold a share: run `darkroom delete [0-9a-f]{32}`"):
        store(hospital, image)
    (object_id,) = servers[Role.A].objects
    assert records.load_record(hospital.objects, ObjectId(object_id)).state is RecordState.PENDING
    servers[Role.A].fail.clear()
    delete(hospital, object_id)
    assert servers[Role.A].objects == {}
    assert files(hospital) == []


def test_ctrl_c_leaves_nothing(hospital, servers, image, monkeypatch):
    def interrupted(connection, *_args):
        if connection.role is Role.B:
            raise KeyboardInterrupt
        return original(connection, *_args)

    original = acquisition._upload
    monkeypatch.setattr(acquisition, "_upload", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store(hospital, image)
    assert servers[Role.A].objects == {}
    assert files(hospital) == []


def test_a_full_disk_is_found_before_the_upload(hospital, servers, image, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="disk is full"):
        store(hospital, image)
    assert "Store" not in servers[Role.A].calls + servers[Role.B].calls
    assert files(hospital) == []


def test_delete_asks_both_servers_and_says_which_failed(hospital, servers, image, refused):
    record = store(hospital, image)
    servers[Role.A].fail["Delete"] = refused(UNAVAILABLE)
    with pytest.raises(
        PeerUnavailableError, match=r"server A at a.example:7600, asked to delete.*on purpose.*; server B deleted its share"
    ):
        delete(hospital, record.object_id)
    assert servers[Role.B].objects == {}
    assert files(hospital) == [f"{record.object_id}.json"]
    servers[Role.A].fail.clear()
    delete(hospital, f"{record.object_id}\n")
    assert servers[Role.A].objects == {}
    assert files(hospital) == []
    with pytest.raises(NotFoundError, match="check the id"):
        delete(hospital, record.object_id)
    with pytest.raises(BadInputError, match="object id"):
        delete(hospital, "nonsense")


def test_when_to_come_again_survives_the_undoing(hospital, servers, image, monkeypatch):
    refusal = PeerUnavailableError("server B stops", retry_seconds=30)

    def refuse(*_):
        raise refusal

    monkeypatch.setattr(acquisition, "_upload", refuse)
    with pytest.raises(PeerUnavailableError) as stopped:
        store(hospital, image)
    assert stopped.value.retry_seconds == 30
