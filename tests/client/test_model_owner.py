from dataclasses import replace

import grpc
import pytest
import torch

from client import both_servers
from client.model_file import Model
from client.model_owner import compare_models, encode_weights, list_models, push_model
from proto import darkroom_pb2 as pb
from protocols.errors import ConfigurationError, EncodingRangeError, PeerUnavailableError, RemoteProtocolError
from protocols.identifiers import PushId, Role
from protocols.layers import Conv, Gate
from protocols.network import Network
from protocols.ring import from_bytes
from protocols.sharing import expand_seed

NETWORK = Network((Conv("first", "image", 4, 3, padding=1), Gate("gate", "first"), Conv("last", "gate", 1, 3, padding=1)), 1, 12)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(both_servers, "GRACE_SECONDS", 0.05)


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in NETWORK.parameter_shapes().items()}
    return Model("small", NETWORK, weights, 4.0)


def entry(name="small", push="5" * 32, network=NETWORK):
    return pb.ModelEntry(name=name, push_id=push, network=network if isinstance(network, str) else network.to_json())


def test_weights_are_encoded_in_order_and_on_their_grids(model):
    words = encode_weights(model)
    expected = []
    for name in NETWORK.parameter_shapes():
        scale = 4096 if name.endswith(".weight") else 65536
        expected.append(torch.round(model.weights[name].double() * scale).long().flatten())
    assert torch.equal(words, torch.cat(expected))


def test_each_server_gets_its_share(hospital, servers, model):
    assert push_model(hospital, model) == PushId("5" * 32)
    (header_a, words_a), (header_b, words_b) = (servers[role].pushed[0] for role in Role)
    assert header_a.session_id == header_b.session_id
    assert (header_a.name, header_a.network) == ("small", NETWORK.to_json())
    assert (words_a, header_b.seed) == (b"", b"")
    count = encode_weights(model).numel()
    total = expand_seed(header_a.seed, (count,)) + from_bytes(words_b, (count,))
    assert torch.equal(total, encode_weights(model))


def test_failed_pushes(hospital, servers, model, refused):
    with pytest.raises(ConfigurationError, match="model_owner"):
        push_model(replace(hospital, model_owner=None), model)
    model.weights["last.bias"][0] = 2.0**21
    with pytest.raises(EncodingRangeError):
        push_model(hospital, model)
    model.weights["last.bias"][0] = 0.0
    servers[Role.B].push_id = PushId("6" * 32)
    with pytest.raises(RemoteProtocolError, match="push the model again"):
        push_model(hospital, model)
    servers[Role.A].fail["push-end"] = refused(grpc.StatusCode.ABORTED, "no dealer")
    with pytest.raises(
        PeerUnavailableError, match="server A at a.example:7600, asked to take its share of the weights: no dealer"
    ) as refused_by_one:
        push_model(hospital, model)
    assert "Server B has taken the model: push it again" in str(refused_by_one.value)
    servers[Role.B].fail["push-end"] = refused(grpc.StatusCode.ABORTED, "no dealer")
    with pytest.raises(PeerUnavailableError) as refused_by_both:
        push_model(hospital, model)
    assert "push it again" not in str(refused_by_both.value)


def test_lists_are_compared(hospital, servers):
    both = pb.ListModelsReply(models=[entry(), entry("other", "")])
    first, second = compare_models({Role.A: both, Role.B: pb.ListModelsReply(models=[entry(push="6" * 32), entry("other", "")])})
    assert (first.name, first.complete, first.push_id) == ("other", True, None)
    assert (second.name, second.complete, second.push_id) == ("small", True, None)
    assert second.push_ids == {Role.A: PushId("5" * 32), Role.B: PushId("6" * 32)}
    (alone,) = compare_models({Role.A: pb.ListModelsReply(models=[entry()]), Role.B: pb.ListModelsReply()})
    assert (alone.complete, alone.push_id, alone.network) == (False, None, NETWORK)
    assert list_models(hospital) == []


def test_lists_that_contradict_are_refused():
    other = Network(NETWORK.layers[:1])
    with pytest.raises(RemoteProtocolError, match="different networks"):
        compare_models({Role.A: pb.ListModelsReply(models=[entry()]), Role.B: pb.ListModelsReply(models=[entry(network=other)])})
    with pytest.raises(RemoteProtocolError, match="server A describes"):
        compare_models({Role.A: pb.ListModelsReply(models=[entry(network="{}")]), Role.B: pb.ListModelsReply()})
    with pytest.raises(RemoteProtocolError, match="PushId"):
        compare_models({Role.A: pb.ListModelsReply(models=[entry(push="x")]), Role.B: pb.ListModelsReply()})
