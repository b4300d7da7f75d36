"""Pushed models: shares at rest, and the one opening of each push."""

import pytest
import torch

from proto import darkroom_pb2 as pb
from protocols import ring, sharing
from protocols.dealing import push_seed, weight_mask_share
from protocols.errors import (
    BadInputError,
    LocalProtocolError,
    MaterialReusedError,
    NetworkDescriptionError,
    NotFoundError,
    PeerUnavailableError,
    RemoteProtocolError,
)
from protocols.identifiers import PushId, Role
from protocols.layers import Conv, Linear
from protocols.network import IMAGE_WIRE, Network
from protocols.plan import masked_weights
from protocols.prg import derive_key
from server import models
from server.dealer_client import Boots
from server.models import ModelRegistry, WeightMasking, weight_words
from server.share_store import ShareStore
from tests.protocols.every_layer import EVERY_LAYER, encoded_weights, weights_of
from tests.protocols.test_sharing import ERROR_RATE, uniformity_p_value

BOOTS = Boots("a" * 32, "b" * 32)
PUSH, OTHER_PUSH = PushId("1" * 32), PushId("2" * 32)
WIDE = Network((Conv("c", IMAGE_WIRE, 64, 7, padding=3), Conv("d", "c", 64, 3, padding=1)))  # 40,000 weights


@pytest.fixture
def registries(tmp_path):
    return {role: ModelRegistry(ShareStore(tmp_path / role.value), role) for role in Role}


def upload(registries, network=EVERY_LAYER, *, session="5" * 32, seed=1, name="base"):
    """Push seeded weights to both; returns them, encoded."""
    encoded = encoded_weights(network, weights_of(network, seed))
    flat = torch.cat([tensor.flatten() for tensor in encoded.values()])
    pair = sharing.share(flat, seed=derive_key(bytes(32), bytes([seed])))
    for role, registry in registries.items():
        part = pair.seed if role is Role.A else b""
        header = pb.PushModelHeader(session_id=session, name=name, network=network.to_json(), seed=part)
        with registry.receiving(header, [] if role is Role.A else [ring.to_bytes(pair.words)]):
            pass
    return encoded


def masking(registry, role, push=PUSH):
    model = registry.load("base")
    return WeightMasking(model, push, BOOTS, push_seed(bytes(32), role, push, model.network.digest))


def masks(network, push=PUSH):
    seeds = [push_seed(bytes(32), role, push, network.digest) for role in Role]
    shapes = masked_weights(network, 64, 64)
    return {
        name: sum(weight_mask_share(seed, position, shape) for seed in seeds)
        for position, (name, shape) in enumerate(shapes.items())
    }


def test_shares_come_back_and_add_up_to_the_weights(registries):
    encoded = upload(registries)
    loaded = {role: registry.load("base") for role, registry in registries.items()}
    assert list(loaded[Role.A].shares) == list(EVERY_LAYER.parameter_shapes())
    for name, weight in encoded.items():
        assert torch.equal(sharing.reconstruct(*(loaded[role].shares[name] for role in Role)), weight)
    assert loaded[Role.B].upload_id == "5" * 32
    assert loaded[Role.B].network == EVERY_LAYER


def test_both_open_the_same_deltas_and_keep_their_biases(registries):
    encoded = upload(registries)
    sides = {role: masking(registry, role) for role, registry in registries.items()}
    sent = {role: side.opening() for role, side in sides.items()}
    masked = {role: side.accept(sent[role.peer]) for role, side in sides.items()}
    assert masked[Role.A].deltas == masked[Role.B].deltas
    expected = [encoded[name].view(mask.shape) - mask for name, mask in masks(EVERY_LAYER).items()]
    assert masked[Role.A].deltas == b"".join(map(ring.to_bytes, expected))
    biases = [ring.from_bytes(masked[role].bias_shares, (len(masked[role].bias_shares) // 8,)) for role in Role]
    wanted = [tensor for name, tensor in encoded.items() if name.endswith(".bias")]
    assert torch.equal(biases[0] + biases[1], torch.cat(wanted))


def test_an_opening_is_computed_once(registries):
    upload(registries)
    side = masking(registries[Role.A], Role.A)
    side.opening()
    with pytest.raises(MaterialReusedError, match=f"weight masks of push {PUSH} were used"):
        side.opening()


def test_an_opening_is_accepted_once(registries):
    upload(registries)
    sides = {role: masking(registry, role) for role, registry in registries.items()}
    sent = {role: side.opening() for role, side in sides.items()}
    sides[Role.A].accept(sent[Role.B])
    with pytest.raises(RemoteProtocolError):
        sides[Role.A].accept(sent[Role.B])
    with pytest.raises(MaterialReusedError):
        sides[Role.A].opening()


def test_the_peers_opening_does_not_come_first(registries):
    upload(registries)
    with pytest.raises(LocalProtocolError, match="came before ours"):
        masking(registries[Role.A], Role.A).accept(b"")


@pytest.mark.parametrize("change", [lambda b: b[:-8], lambda b: b + bytes(8), lambda b: b[:-1], lambda b: b""])
def test_an_opening_of_another_length_is_refused(registries, change):
    upload(registries)
    side = masking(registries[Role.A], Role.A)
    own = side.opening()
    with pytest.raises(RemoteProtocolError, match="expected .* ring words"):
        side.accept(change(own))


def test_what_is_sent_and_what_is_opened_is_uniform(registries):
    """Chi-square at 1e-6 for each of three samples of 40,000 words, fixed seeds."""
    upload(registries, WIDE)
    sides = {role: masking(registry, role) for role, registry in registries.items()}
    sent = {role: side.opening() for role, side in sides.items()}
    opened = sides[Role.A].accept(sent[Role.B]).deltas
    for content in (*sent.values(), opened):
        assert uniformity_p_value(ring.from_bytes(content, (len(content) // 8,))) > ERROR_RATE


def test_the_uniformity_test_finds_weights_opened_without_mask(registries, monkeypatch):
    upload(registries, WIDE)
    monkeypatch.setattr(models, "weight_mask_share", lambda seed, position, shape: torch.zeros(shape, dtype=torch.int64))
    sides = {role: masking(registry, role) for role, registry in registries.items()}
    sent = {role: side.opening() for role, side in sides.items()}
    opened = sides[Role.A].accept(sent[Role.B]).deltas
    assert uniformity_p_value(ring.from_bytes(opened, (len(opened) // 8,))) < ERROR_RATE
    for content in sent.values():  # each message alone is a share: that the sum is tested is the point
        assert uniformity_p_value(ring.from_bytes(content, (len(content) // 8,))) > ERROR_RATE


def test_two_pushes_open_different_deltas(registries):
    upload(registries, WIDE)
    first, second = (masking(registries[Role.A], Role.A, push).opening() for push in (PUSH, OTHER_PUSH))
    difference = ring.from_bytes(first, (len(first) // 8,)) - ring.from_bytes(second, (len(second) // 8,))
    assert uniformity_p_value(difference) > ERROR_RATE  # of two masks, not of one used twice, which would give zeros


# --- the registry ---


def registered(registries, role=Role.A):
    registry = registries[role]
    upload(registries)
    sides = {each: masking(registries[each], each) for each in Role}
    sent = {each: side.opening() for each, side in sides.items()}
    registry.register("base", sides[role].accept(sent[role.peer]))
    return registry


def test_the_masked_form_belongs_to_one_upload_and_two_runs(registries):
    registry = registered(registries)
    assert registry.masked("base", "5" * 32, BOOTS).push_id == PUSH
    assert registry.last_push("base") == str(PUSH)
    for upload_id, boots in (
        ("6" * 32, BOOTS),
        ("5" * 32, Boots("c" * 32, "b" * 32)),
        ("5" * 32, Boots("a" * 32, "c" * 32)),
    ):
        assert registry.masked("base", upload_id, boots) is None
    assert registry.masked("other", "5" * 32, BOOTS) is None


def test_a_new_upload_or_forgetting_drops_the_masked_form(registries):
    registry = registered(registries)
    registry.forget("base")
    registry.forget("base")
    assert registry.masked("base", "5" * 32, BOOTS) is None
    registry = registered(registries)
    upload(registries, session="7" * 32, seed=2)
    assert registry.last_push("base") == ""
    assert registry.load("base").upload_id == "7" * 32


def test_a_restart_keeps_shares_and_forgets_masks(registries, tmp_path):
    registered(registries)
    again = ModelRegistry(ShareStore(tmp_path / "A"), Role.A)
    assert again.names() == ["base"]
    assert again.masked("base", "5" * 32, BOOTS) is None
    assert torch.equal(again.load("base").shares["widen.weight"], registries[Role.A].load("base").shares["widen.weight"])


def test_a_push_during_a_load_does_not_mix_two_uploads(registries, monkeypatch):
    """Header and words are read together: shares of two uploads under one id would be masked and used as one model."""
    upload(registries)
    registry = registries[Role.B]
    read, calls = ShareStore.read, []

    def read_then_replace(store, name):
        stored = read(store, name)
        if not calls:
            calls.append(name)
            upload(registries, session="7" * 32, seed=2)
        return stored

    monkeypatch.setattr(ShareStore, "read", read_then_replace)
    loaded = registry.load("base")
    monkeypatch.undo()
    upload(registries)
    assert loaded.upload_id == "5" * 32
    assert torch.equal(loaded.shares["widen.weight"], registry.load("base").shares["widen.weight"])


def header(**changes):
    complete = {"session_id": "5" * 32, "name": "base", "network": EVERY_LAYER.to_json(), "seed": bytes(32)}
    return pb.PushModelHeader(**(complete | changes))


BEHIND_NO_POOL = Network((Linear("l", IMAGE_WIRE, 3),))
REFUSED_AT_A = {
    "no seed": (header(seed=b""), [], RemoteProtocolError, "a seed of 32 bytes"),
    "a short seed": (header(seed=bytes(31)), [], RemoteProtocolError, "a seed of 32 bytes"),
    "a seed and words": (header(), [bytes(8)], RemoteProtocolError, "more than the 0 bytes"),
    "no network": (header(network=""), [], NetworkDescriptionError, "malformed"),
    "a path for a name": (header(name="../base"), [], BadInputError, "is not a name"),
    "weights that depend on the image's size": (
        header(network=BEHIND_NO_POOL.to_json()),
        [],
        NetworkDescriptionError,
        "depend on the size of the image",
    ),
}


@pytest.mark.parametrize("name", REFUSED_AT_A)
def test_uploads_that_a_refuses(registries, name):
    head, chunks, kind, message = REFUSED_AT_A[name]
    with pytest.raises(kind, match=message):
        with registries[Role.A].receiving(head, chunks):
            pass
    assert registries[Role.A].names() == []


@pytest.mark.parametrize(
    ("head", "words"),
    [(header(), 0), (header(seed=bytes(1)), 0), (header(seed=b""), -1), (header(seed=b""), 1)],
    ids=["a seed", "a short seed", "too few words", "too many words"],
)
def test_uploads_that_b_refuses(registries, head, words):
    with pytest.raises(RemoteProtocolError):
        with registries[Role.B].receiving(head, [bytes(8 * (weight_words(EVERY_LAYER) + words))]):
            pass
    assert registries[Role.B].names() == []


def test_a_model_beyond_reason_is_refused_before_it_is_read(registries):
    def endless():
        raise AssertionError("read")
        yield b""

    huge = Network((Conv("c", IMAGE_WIRE, 4096, 1), Conv("d", "c", 4096, 3, padding=1)))
    with pytest.raises(RemoteProtocolError, match="at most 134217728 are supported"):
        with registries[Role.B].receiving(header(network=huge.to_json(), seed=b""), endless()):
            pass


@pytest.mark.parametrize("role", list(Role))
def test_a_push_that_ends_half_way_leaves_the_older_model(registries, tmp_path, role):
    """As where the other server is busy, or goes: both must be left with the same model."""
    upload(registries, seed=1)
    registry, before = registries[role], registries[role].load("base")
    seed = bytes(32) if role is Role.A else b""
    new = pb.PushModelHeader(session_id="7" * 32, name="base", network=EVERY_LAYER.to_json(), seed=seed)
    words = [] if role is Role.A else [bytes(8 * weight_words(EVERY_LAYER))]

    def push():
        with registry.receiving(new, words) as received:
            assert received().upload_id == "7" * 32
            raise PeerUnavailableError("server B is busy")

    with pytest.raises(PeerUnavailableError):
        push()
    after = registry.load("base")
    assert after.upload_id == before.upload_id == "5" * 32
    assert all(torch.equal(after.shares[name], share) for name, share in before.shares.items())
    assert [path.name for path in (tmp_path / role.value).iterdir()] == ["base.share"]


def test_a_model_that_is_not_there(registries):
    with pytest.raises(NotFoundError, match="'none' is not on server B; push it"):
        registries[Role.B].load("none")


def test_weights_are_not_printed(registries):
    registry = registered(registries)
    model, masked = registry.load("base"), registry.masked("base", "5" * 32, BOOTS)
    secret = str(int(model.shares["widen.weight"].flatten()[0]))
    for text in (repr(model), repr(masked), repr(masking(registry, Role.A))):
        assert "tensor" not in text
        assert secret not in text
        assert "\\x" not in text
