import dataclasses
from dataclasses import dataclass, field

import pytest
import torch
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from proto import darkroom_pb2 as pb
from security.secret_types import KEY, CarelessKey, bearers, canary_needles, planted, planted_messages, shown

NEEDLES = canary_needles()
BEARERS = list(bearers())


def test_the_types_that_are_known_to_hold_secrets_are_among_those_found():
    names = {type(instance).__name__ for instance in BEARERS}
    assert names >= {"MasterKey", "SigningKey", "NoiseKeys", "Prg", "SharePair", "SourceImage", "ObjectRecord", "Identity"}
    assert names >= {"PartyMaterial", "WeightMasking", "Push", "Batch", "EvaluationRequest", "StoredShare", "MaskedWeight"}
    assert names >= {"DenoiseRequest", "WorkerJob", "StoreRequest", "PeerMessage", "MaterialChunk", "ClaimPushReply"}


def test_a_field_of_bytes_in_a_message_is_marked_as_secret_unless_it_is_a_digest():
    unmarked = {
        f"{name}.{field.name}"
        for name, descriptor in pb.DESCRIPTOR.message_types_by_name.items()
        for field in descriptor.fields
        if field.type == field.TYPE_BYTES and not field.GetOptions().debug_redact
    }
    assert {name for name in unmarked if not name.endswith("_digest")} == set()


@pytest.mark.parametrize("instance", BEARERS, ids=lambda instance: f"{type(instance).__module__}.{type(instance).__name__}")
def test_nothing_shows_it(instance):
    assert shown(instance, NEEDLES) == []


@dataclass(frozen=True)
class Printed:
    value: torch.Tensor


@dataclass(frozen=True, eq=False)
class Hidden:
    value: bytes = field(repr=False)


def test_the_search_finds_types_that_print_or_pickle():
    assert len(shown(CarelessKey(KEY), NEEDLES)) == 5
    assert any("repr" in line for line in shown(planted(Printed), NEEDLES))
    assert shown(planted(Hidden), NEEDLES) == ["Hidden: pickle (raw)"]


def test_the_search_finds_messages_that_are_not_redacted():
    pool = DescriptorPool()
    pool.AddSerializedFile(pb.DESCRIPTOR.serialized_pb)
    bare = GetMessageClass(pool.FindMessageTypeByName("darkroom.v1.DenoiseRequest"))
    grant, noise_key, _ = planted_messages(bare)
    for message in (grant, noise_key):
        assert [line.split()[1] for line in shown(message, NEEDLES)] == ["repr", "str", "container", "log"]


def test_planting_fills_every_field():
    for instance in BEARERS:
        if dataclasses.is_dataclass(instance):
            assert all(hasattr(instance, entry.name) for entry in dataclasses.fields(instance))
