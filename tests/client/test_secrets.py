"""No secret-bearing type of the client shows a secret: in repr, in a format string, in a log line at DEBUG."""

import io
import logging
from pathlib import Path

import grpc
import pytest
import structlog
import torch
from pydicom.data import get_testdata_file

from client.acquisition import pack_object, store
from client.edge import BlindResult, denoise
from client.images import read_image
from client.model_file import Model
from client.result_stream import ServerCost, ServerResult
from protocols.errors import DarkroomError
from protocols.identifiers import PushId, Role
from protocols.layers import Conv
from protocols.network import Network
from protocols.packing import PackingMode


@pytest.fixture
def bearers(hospital, servers, image):
    """Every type of the client that holds a secret, and the texts that must not show."""
    client = hospital.require_client()
    record = store(hospital, image, packing=PackingMode.BLIND, sigma=0.0321)
    packed = pack_object(image, client.noise_key, packing=PackingMode.KEYED, sigma=0.1)
    keyed = denoise(hospital, store(hospital, image).object_id, model="base")
    tensor = torch.full((1, 8, 8), 0x1234567890AB, dtype=torch.int64)
    blind = BlindResult(image.pixels, image.pixels, 0.9, 0.1, 0.5)
    dicom = read_image(Path(get_testdata_file("examples_overlay.dcm")))
    network = Network((Conv("only", "image", 1, 1),))
    weights = {"only.weight": torch.full((1, 1, 1, 1), 0.73105), "only.bias": torch.zeros(1)}
    result = ServerResult(Role.A, ServerCost(0.0, 0.0, 0, 0, 0, 0, 0), PushId("5" * 32), "fake", tensor, tensor)
    shown = [
        client,
        client.noise_key,
        client.signing_key,
        client.identity,
        hospital,
        record,
        record.keys,
        packed,
        packed.shares,
        keyed,
        blind,
        image,
        image.origin,
        dicom,
        dicom.origin,
        result,
        Model("m", network, weights, 1.0),
    ]
    assert dicom.dataset is not None
    pem = client.identity.private_key.decode().splitlines()[1]
    secrets = [
        client.noise_key.value.hex(),
        repr(client.noise_key.value)[2:20],
        pem,
        record.keys.key_a.hex(),
        repr(record.keys.key_b)[2:20],
        record.key_check.hex(),
        record.grant,
        repr(packed.shares.seed)[2:20],
        "0.0321",
        "doe^john",
        str(dicom.dataset.PatientID),
        str(dicom.dataset.StudyInstanceUID),
        "tensor(",
        "20015998341291",  # the share's word
        "0.73105",
    ]
    return shown, secrets


def test_repr_and_format_show_no_secret(bearers):
    shown, secrets = bearers
    for item in shown:
        for text in (repr(item), str(item), f"{item}", f"{item!r:>5}", repr([item]), repr({"x": item})):
            found = [secret for secret in secrets if secret in text]
            assert found == [], type(item).__name__


def test_logs_at_debug_show_no_secret(bearers):
    shown, secrets = bearers
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    log = logging.getLogger("test_secrets")
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    for renderer in (
        structlog.processors.JSONRenderer(),
        structlog.processors.KeyValueRenderer(),
        structlog.dev.ConsoleRenderer(),
    ):
        structured = structlog.wrap_logger(
            structlog.PrintLogger(out),
            processors=[structlog.processors.add_log_level, renderer],
            wrapper_class=structlog.BoundLogger,
        )
        for item in shown:
            structured.debug("event", item=item, items=[item])
    for item in shown:
        log.debug("event %s %r", item, item)
    log.removeHandler(handler)
    text = out.getvalue()
    assert text.count("ObjectRecord(") >= 4
    assert [secret for secret in secrets if secret in text] == []


def test_errors_and_progress_show_no_secret(hospital, servers, image, bearers, refused):
    _, secrets = bearers
    texts = []
    for status in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
        record = store(hospital, image, progress=lambda step: texts.append(repr(step)))
        servers[Role.B].fail["Denoise"] = refused(status, "no")
        with pytest.raises(DarkroomError) as caught:
            denoise(hospital, record.object_id, model="base", progress=lambda step: texts.append(repr(step)))
        texts.append(str(caught.value))
        secrets += [record.grant, record.keys.key_a.hex()]
    assert [secret for secret in secrets if any(secret in text for text in texts)] == []
