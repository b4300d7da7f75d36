"""The dealer's service without sockets: who gets which half is decided by the certificate, and what is dealt is right."""

import time

import grpc
import pytest
import torch

from dealer import service as dealer_service
from dealer.service import DealerService
from proto import darkroom_pb2 as pb
from protocols import ring
from protocols.dealing import PartyMaterial, weight_mask_share
from protocols.errors import AccessDenied
from protocols.identifiers import Role
from protocols.layers import Conv
from protocols.masked_dealing import PartyMasks
from protocols.masked_plan import masked_plan
from protocols.network import IMAGE_WIRE, Network
from protocols.plan import WeightTriple, masked_weights, plan_for

NETWORK = Network((Conv("c", IMAGE_WIRE, 2, 3, padding=1), Conv("d", "c", 1, 1)))
PLAN = plan_for(NETWORK, 9, 8)
BOOTS = {"boot_a": "a" * 32, "boot_b": "b" * 32}


class Refused(Exception):  # noqa: N818
    def __init__(self, status, details):
        super().__init__(details)
        self.status = status


class Context:
    """What the service asks of gRPC."""

    def __init__(self, name):
        self.name = name

    def set_trailing_metadata(self, pairs):
        """When to try again; not looked at here."""

    def abort(self, status, details):
        raise Refused(status, details)


class ByName:
    """Callers who say who they are."""

    def require(self, context, *allowed):
        if context.name not in allowed:
            raise AccessDenied(f"not {context.name}")
        return context.name


A, B = Context("server-a"), Context("server-b")


@pytest.fixture
def service():
    return DealerService(ByName())


def push(service):
    return service.OpenPush(pb.OpenPushRequest(network=NETWORK.to_json(), **BOOTS), A).push_id


def claim_push(service, push_id, context):
    request = pb.ClaimPushRequest(push_id=push_id, network_digest=NETWORK.digest, **BOOTS)
    return service.ClaimPush(request, context).seed


def material(service, push_id, plan=PLAN):
    size = pb.Size(height=9, width=8)
    request = pb.OpenMaterialRequest(push_id=push_id, size=size, engine=plan.engine, **BOOTS)
    return service.OpenMaterial(request, A).material_id


def claim(service, material_id, push_id, context, plan=PLAN):
    request = pb.ClaimMaterialRequest(material_id=material_id, push_id=push_id, plan_digest=plan.digest, **BOOTS)
    return list(service.ClaimMaterial(request, context))


def test_what_is_dealt_is_right(service):
    name = push(service)
    seeds = [claim_push(service, name, context) for context in (A, B)]
    shapes = enumerate(masked_weights(NETWORK, 9, 8).values())
    masks = [sum(weight_mask_share(seed, position, shape) for seed in seeds) for position, shape in shapes]
    batch = material(service, name)
    to_a, to_b = (claim(service, batch, name, context) for context in (A, B))
    assert [message.WhichOneof("content") for message in to_a] == ["seed", "end"]
    assert [message.WhichOneof("content") for message in to_b] == ["seed", "correction", "correction", "end"]
    a, b = PartyMaterial(Role.A, PLAN, to_a[0].seed), PartyMaterial(Role.B, PLAN, to_b[0].seed)
    for index, message in enumerate(to_b[1:-1]):
        correction = message.correction
        assert (correction.label, correction.offset, correction.total_bytes) == (index, 0, PLAN.correction_bytes(index))
        b.correct(index, ring.from_bytes(correction.chunk, PLAN.correlations[index].c_shape))
    for mask, item in zip(masks, PLAN.correlations, strict=True):
        (_, _, left), (_, _, right) = a.take(WeightTriple), b.take(WeightTriple)
        assert torch.equal(left.c + right.c, ring.conv2d(left.a + right.a, mask, item.geometry))


def test_what_is_dealt_to_the_masked_engine_is_right(service):
    """A's seed and B's corrections give masks that fit: r of the first wire is e + l * b, its truncated shares add up."""
    plan = masked_plan(NETWORK, 9, 8)
    name = push(service)
    seeds = [claim_push(service, name, context) for context in (A, B)]
    weight_mask = sum(weight_mask_share(seed, 0, (2, 1, 3, 3)) for seed in seeds)
    batch = material(service, name, plan)
    to_a, to_b = (claim(service, batch, name, context, plan) for context in (A, B))
    assert [message.WhichOneof("content") for message in to_a] == ["seed", "end"]
    assert [message.WhichOneof("content") for message in to_b] == ["seed", "correction", "correction", "end"]
    sent = [message.correction for message in to_b[1:-1]]
    assert [(piece.label, piece.offset, piece.total_bytes) for piece in sent] == [
        (index, 0, size) for index, size in enumerate(plan.correction_sizes)
    ]
    words = (ring.from_bytes(piece.chunk, shape) for piece, shape in zip(sent, plan.corrections, strict=True))
    a, b = PartyMasks(Role.A, to_a[0].seed, iter(())), PartyMasks(Role.B, to_b[0].seed, words)
    image, conv = plan.wires[IMAGE_WIRE], plan.wires["c"]
    source = a.opening(image) + b.opening(image)
    full = a.opening(conv) + b.opening(conv) + ring.conv2d(source, weight_mask, conv.geometry)
    assert torch.equal(a.dealt(conv) + b.dealt(conv), full >> conv.shift)


def test_material_and_pushes_are_fresh(service):
    pushes = [push(service) for _ in range(2)]
    seeds = [claim_push(service, name, context) for name in pushes for context in (A, B)]
    batches = [material(service, pushes[0]) for _ in range(2)]
    seeds += [claim(service, batch, pushes[0], context)[0].seed for batch in batches for context in (A, B)]
    assert len(set(seeds)) == 8


@pytest.mark.parametrize("name", ["server-b", "edge", "client", "model-owner"])
def test_only_a_opens(service, name):
    for call in (
        lambda: service.OpenPush(pb.OpenPushRequest(network=NETWORK.to_json(), **BOOTS), Context(name)),
        lambda: service.OpenMaterial(pb.OpenMaterialRequest(), Context(name)),
    ):
        with pytest.raises(Refused, match=name) as caught:
            call()
        assert caught.value.status is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("name", ["edge", "client", "model-owner", ""])
def test_only_the_servers_claim(service, name):
    push_id = push(service)
    batch = material(service, push_id)
    for call in (
        lambda: claim_push(service, push_id, Context(name)),
        lambda: claim(service, batch, push_id, Context(name)),
    ):
        with pytest.raises(Refused) as caught:
            call()
        assert caught.value.status is grpc.StatusCode.PERMISSION_DENIED


def test_a_claim_made_twice_is_refused_even_when_the_first_was_broken_off(service):
    push_id = push(service)
    batch = material(service, push_id)
    request = pb.ClaimMaterialRequest(material_id=batch, push_id=push_id, plan_digest=PLAN.digest, **BOOTS)
    first = service.ClaimMaterial(request, B)
    next(first)
    first.close()  # B has gone in the middle
    with pytest.raises(Refused, match="claimed by server B before") as caught:
        claim(service, batch, push_id, B)
    assert caught.value.status is grpc.StatusCode.ALREADY_EXISTS


def test_a_dealing_that_was_broken_off_does_not_block_the_next(service):
    push_id = push(service)
    request = pb.ClaimMaterialRequest(material_id=material(service, push_id), push_id=push_id, plan_digest=PLAN.digest, **BOOTS)
    first = service.ClaimMaterial(request, B)
    next(first)
    next(first)  # inside the corrections, where one batch is dealt at a time
    del first
    assert len(claim(service, material(service, push_id), push_id, B)) == 4


@pytest.mark.parametrize("field", ["boot_a", "boot_b"])
def test_a_boot_id_that_is_none_is_refused(service, field):
    with pytest.raises(Refused, match="BootId must be 32") as caught:
        service.OpenPush(pb.OpenPushRequest(network=NETWORK.to_json(), **(BOOTS | {field: "x"})), A)
    assert caught.value.status is grpc.StatusCode.FAILED_PRECONDITION


def test_a_stopping_dealer_opens_nothing_and_gives_out_what_was_opened(service):
    """So that sessions under way can end."""
    push_id = push(service)
    for context in (A, B):
        claim_push(service, push_id, context)
    batch = material(service, push_id)
    request = pb.ClaimMaterialRequest(material_id=batch, push_id=push_id, plan_digest=PLAN.digest, **BOOTS)
    under_way = service.ClaimMaterial(request, B)
    next(under_way)
    service.drain()
    for opening in (lambda: push(service), lambda: material(service, push_id)):
        with pytest.raises(Refused, match="the dealer is shutting down") as refused:
            opening()
        assert refused.value.status is grpc.StatusCode.ABORTED
    assert not service.wait_idle(0)
    assert len(claim(service, batch, push_id, A)) == 2
    assert len(list(under_way)) == 3
    assert service.wait_idle(0)


@pytest.mark.parametrize("first", [A, B], ids=["A", "B"])
def test_a_stopping_dealer_waits_for_both_claims_of_a_push(service, first):
    push_id = push(service)
    service.drain()
    for context in (first, B if first is A else A):
        assert not service.wait_idle(0)
        claim_push(service, push_id, context)
    assert service.wait_idle(0)


@pytest.mark.parametrize("first", [A, B], ids=["A", "B"])
def test_a_stopping_dealer_waits_for_both_claims_of_material(service, first):
    push_id = push(service)
    for context in (A, B):
        claim_push(service, push_id, context)
    batch = material(service, push_id)
    service.drain()
    for context in (first, B if first is A else A):
        assert not service.wait_idle(0)
        claim(service, batch, push_id, context)
    assert service.wait_idle(0)


def test_a_claim_that_is_refused_is_still_waited_for_and_not_for_ever(service, monkeypatch):
    monkeypatch.setattr(dealer_service, "CLAIM_SECONDS", 0.2)
    material(service, push(service))
    with pytest.raises(Refused):
        claim(service, "f" * 32, "e" * 32, A)
    assert not service.wait_idle(0)
    service.drain()
    time.sleep(0.3)
    assert service.wait_idle(0)


def test_what_is_dealt_is_counted_by_server(service):
    push_id = push(service)
    batch = material(service, push_id)
    for context in (A, B):
        claim(service, batch, push_id, context)
    broken_off = service.ClaimMaterial(
        pb.ClaimMaterialRequest(material_id=material(service, push_id), push_id=push_id, plan_digest=PLAN.digest, **BOOTS), B
    )
    next(broken_off)
    broken_off.close()
    sample = service.metrics.registry.get_sample_value
    assert sample("darkroom_pushes_opened_total") == 1
    assert sample("darkroom_material_opened_total") == 2
    assert [sample("darkroom_material_claimed_total", {"role": role}) for role in "AB"] == [1, 1]
    assert sample("darkroom_dealt_bytes_total", {"role": "A"}) == 32
    assert sample("darkroom_dealt_bytes_total", {"role": "B"}) == 32 + PLAN.dealt_bytes
    assert sample("darkroom_calls_total", {"call": "ClaimMaterial", "outcome": "cancelled"}) == 1
