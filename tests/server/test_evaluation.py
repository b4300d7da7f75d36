"""Sessions of two servers joined in memory: what both must agree on, and what is used once."""

import pytest

from protocols.engines import ENGINES, session_plan
from protocols.errors import (
    BadInputError,
    MaterialReusedError,
    PeerUnavailableError,
    RemoteProtocolError,
)
from protocols.identifiers import MaterialId, PushId, Role
from server import evaluation
from server.dealer_client import Batch, Boots
from tests.server.joined_servers import NETWORK, Site
from tests.server.test_models import upload


@pytest.fixture(params=ENGINES)
def site(tmp_path, request):
    return Site(tmp_path, request.param)


def test_the_first_session_masks_the_model_and_the_second_does_not(site):
    a, b, stages = site.session(1)
    assert a.share == bytes(32)
    assert a.push_id == b.push_id
    assert a.shape == (1, 8, 9)
    assert stages[Role.A] == ["masking the model", "dealing", "evaluating"]
    assert stages[Role.B] == ["waiting for server A", "dealing", "evaluating"]
    again, _, stages = site.session(2)
    assert again.push_id == a.push_id
    assert stages[Role.A] == ["dealing", "evaluating"]
    assert site.materials[Role.A] == site.materials[Role.B]
    assert len(set(site.materials[Role.A])) == 2


@pytest.mark.parametrize("role", Role)
def test_after_a_restart_of_a_server_the_model_is_masked_anew(site, role):
    first, _, _ = site.session(1)
    site.start(role)
    second, other, stages = site.session(2)
    assert second.push_id == other.push_id != first.push_id
    assert stages[Role.A][0] == "masking the model"


def test_after_a_restart_of_the_dealer_the_model_is_masked_anew(site):
    first, _, _ = site.session(1)
    site.restart_dealer()
    second, other, _ = site.session(2)
    assert second.push_id == other.push_id != first.push_id


def test_old_material_is_refused_after_a_crash(site):
    """The server has lost its ledger; its new boot id matches nothing that was dealt before."""
    masked, _, _ = site.session(1)
    old = Boots(*(str(site.evaluators[role].boot_id) for role in Role))
    plan = session_plan(site.engine, NETWORK, 8, 9)
    material = site.dealers[Role.A].open_material(masked.push_id, plan, old)
    site.start(Role.A)
    new = Boots(str(site.evaluators[Role.A].boot_id), old.b)
    with pytest.raises(RemoteProtocolError, match="another push, plan or run"):
        site.dealers[Role.A].claim_material(material, masked.push_id, plan, new)
    with pytest.raises(RemoteProtocolError, match="other servers' runs"):
        site.dealers[Role.A].claim_push(masked.push_id, NETWORK, new)


def test_material_that_is_named_twice_reaches_no_worker(site):
    site.session(1)
    used = MaterialId(site.materials[Role.A][0])
    site.dealers[Role.A].named = [used]
    a, b, _ = site.session(2)
    assert isinstance(a, MaterialReusedError)
    assert isinstance(b, MaterialReusedError)
    assert f"MaterialId {used} was used in an earlier session" in str(b)
    assert site.materials == {Role.A: [str(used)], Role.B: [str(used)]}


def test_a_push_that_is_named_twice_is_not_opened_again(site):
    first, _, _ = site.session(1)
    for registry in site.registries.values():
        registry.forget("base")
    site.dealers[Role.A].named = [first.push_id]
    a, b, _ = site.session(2)
    assert isinstance(a, MaterialReusedError)
    assert isinstance(b, MaterialReusedError)
    assert f"PushId {first.push_id} was used" in str(b)


def test_a_masking_that_reached_one_side_only_heals(site):
    """B lost its half of the push (the link broke before A's opening arrived): one session fails, the next masks anew."""
    first, _, _ = site.session(1)
    site.registries[Role.B].forget("base")
    a, b, _ = site.session(2)
    assert isinstance(a, PeerUnavailableError)
    assert isinstance(b, RemoteProtocolError)
    assert "which this server does not hold" in str(b)
    third, other, _ = site.session(3)
    assert third.push_id == other.push_id != first.push_id


@pytest.mark.parametrize("change", [{"object_id": "1" * 32}, {"session_id": "f" * 32}], ids=["object", "session"])
def test_servers_asked_for_different_things_open_nothing(site, change):
    site.session(1)
    a, b, _ = site.session(2, **change)
    assert isinstance(a, PeerUnavailableError)
    assert isinstance(b, RemoteProtocolError)
    assert f"disagree on {next(iter(change))}" in str(b)
    assert len(site.materials[Role.B]) == 1


def test_servers_asked_for_different_engines_open_nothing(site):
    site.session(1)
    _, b, _ = site.session(2, engine=next(engine for engine in ENGINES if engine != site.engine))
    assert isinstance(b, RemoteProtocolError)
    assert "disagree on plan_digest" in str(b)
    assert len(site.materials[Role.B]) == 1


def test_the_outcome_names_the_engine_and_the_network_chooses_it_without_a_wish(site):
    assert {outcome.engine for outcome in site.session(1)[:2]} == {site.engine}
    site.engine = ""
    assert {outcome.engine for outcome in site.session(2)[:2]} == {"masked"}


def test_masking_is_bound_to_the_session_too(site):
    """The first session of two servers is a masking order; it names the session like any other."""
    _, b, _ = site.session(1, session_id="f" * 32)
    assert "disagree on session_id" in str(b)
    assert site.registries[Role.B].last_push("base") == ""


def test_servers_with_different_uploads_open_nothing(site):
    site.session(1)
    upload({Role.B: site.registries[Role.B]}, NETWORK, session="7" * 32)
    _, b, _ = site.session(2)
    assert "disagree on upload_id" in str(b)


def test_an_image_that_needs_too_much_material_is_refused_before_anything_is_dealt(site, monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_MATERIAL_BYTES", 100)
    a, b, _ = site.session(1)
    for result in (a, b):
        assert isinstance(result, BadInputError | PeerUnavailableError)
    assert "cut the image into tiles" in str(a)
    assert not site.ledger[0]._pushes


def test_secrets_of_a_session_are_not_printed(site):
    request = site.request(Role.A, 1, noise_key=b"k" * 32, image_share=lambda: b"s" * 32, sigma_share=123456789)
    outcome = site.session(1)[0]
    for text in (repr(request), repr(outcome), repr(Batch(b"s" * 32, iter(()), lambda: None))):
        assert "kkkk" not in text
        assert "ssss" not in text
        assert "123456789" not in text
        assert "\\x00" not in text


def test_identifiers_of_two_kinds_do_not_shadow_each_other(site):
    evaluator = site.evaluators[Role.A]
    evaluator._use(PushId("a" * 32))
    evaluator._use(MaterialId("a" * 32))
    with pytest.raises(MaterialReusedError):
        evaluator._use(PushId("a" * 32))
