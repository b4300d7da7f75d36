"""The dealer's ledger: every half is given out once, to the runs it is bound to, and memory is bounded."""

import threading

import pytest

from dealer import ledger as ledger_module
from dealer.ledger import DealingLedger
from protocols.engines import CRYPTEN, ENGINES, MASKED, session_plan
from protocols.errors import MaterialReusedError, NetworkDescriptionError, NotFoundError, RemoteProtocolError
from protocols.identifiers import BootId, MaterialId, PushId, Role
from protocols.layers import Conv, Relu, Scale
from protocols.network import IMAGE_WIRE, Network, WireRange
from protocols.plan import plan_for

NETWORK = Network((Conv("c", IMAGE_WIRE, 1, 3, padding=1),))
OTHER = Network((Conv("c", IMAGE_WIRE, 1, 5, padding=2),))
BOOTS = str(BootId("a" * 32)), str(BootId("b" * 32))
RESTARTED = [("c" * 32, "b" * 32), ("a" * 32, "c" * 32), ("b" * 32, "a" * 32)]
PLAN = plan_for(NETWORK, 9, 8)


def opened():
    """A ledger with one push and one batch."""
    ledger = DealingLedger()
    push = ledger.open_push(NETWORK, BOOTS)
    return ledger, push, ledger.open_batch(push, 9, 8, BOOTS, CRYPTEN)


def test_each_half_is_claimed_once():
    ledger, push, material = opened()
    for role in Role:
        assert ledger.claim_push(role, push, BOOTS, NETWORK.digest).network == NETWORK
        assert ledger.claim_batch(role, material, push, PLAN.digest, BOOTS).plan == PLAN


@pytest.mark.parametrize("role", Role)
def test_a_push_is_not_claimed_twice(role):
    ledger, push, _ = opened()
    ledger.claim_push(role, push, BOOTS, NETWORK.digest)
    with pytest.raises(MaterialReusedError, match=f"claimed by server {role.value} before"):
        ledger.claim_push(role, push, BOOTS, NETWORK.digest)
    ledger.claim_push(role.peer, push, BOOTS, NETWORK.digest)


@pytest.mark.parametrize("role", Role)
def test_material_is_not_claimed_twice(role):
    ledger, push, material = opened()
    ledger.claim_batch(role, material, push, PLAN.digest, BOOTS)
    with pytest.raises(MaterialReusedError, match=f"claimed by server {role.value} before"):
        ledger.claim_batch(role, material, push, PLAN.digest, BOOTS)


@pytest.mark.parametrize("role", Role)
def test_material_that_both_have_is_forgotten(role):
    ledger, push, material = opened()
    for each in Role:
        ledger.claim_batch(each, material, push, PLAN.digest, BOOTS)
    with pytest.raises(NotFoundError, match="claimed by both"):
        ledger.claim_batch(role, material, push, PLAN.digest, BOOTS)
    assert not ledger._batches  # and with it the key: what was dealt cannot be derived again from this memory


@pytest.mark.parametrize("boots", RESTARTED)
def test_another_run_of_a_server_gets_nothing(boots):
    ledger, push, material = opened()
    with pytest.raises(RemoteProtocolError, match="bound to other servers' runs"):
        ledger.claim_push(Role.A, push, boots, NETWORK.digest)
    with pytest.raises(RemoteProtocolError, match="another run of the servers"):
        ledger.open_batch(push, 9, 8, boots)
    with pytest.raises(RemoteProtocolError, match="bound to another push, plan or run"):
        ledger.claim_batch(Role.A, material, push, PLAN.digest, boots)


def test_another_network_or_plan_gets_nothing():
    ledger, push, material = opened()
    with pytest.raises(RemoteProtocolError, match="another network"):
        ledger.claim_push(Role.B, push, BOOTS, OTHER.digest)
    for plan in (plan_for(OTHER, 9, 8), plan_for(NETWORK, 8, 9)):
        with pytest.raises(RemoteProtocolError, match="bound to another push, plan or run"):
            ledger.claim_batch(Role.B, material, push, plan.digest, BOOTS)


@pytest.mark.parametrize("engine", ENGINES)
def test_material_is_bound_to_its_engine(engine):
    ledger = DealingLedger()
    push = ledger.open_push(NETWORK, BOOTS)
    material = ledger.open_batch(push, 9, 8, BOOTS, engine)
    plans = {name: session_plan(name, NETWORK, 9, 8) for name in ENGINES}
    other = plans[MASKED if engine == CRYPTEN else CRYPTEN]
    with pytest.raises(RemoteProtocolError, match="bound to another push, plan or run"):
        ledger.claim_batch(Role.B, material, push, other.digest, BOOTS)
    for role in Role:
        assert ledger.claim_batch(role, material, push, plans[engine].digest, BOOTS).plan == plans[engine]


TOO_WIDE = Network((Scale("fine", IMAGE_WIRE, 1.0), Relu("r", "fine")), ranges=(("fine", WireRange(20, 20)),))


@pytest.mark.parametrize(
    ("network", "engine", "message"),
    [(NETWORK, "fastest", "'fastest' is unknown"), (TOO_WIDE, MASKED, "r: a comparison of 42 bits")],
)
def test_an_engine_that_cannot_evaluate_the_network_opens_nothing(network, engine, message):
    ledger = DealingLedger()
    push = ledger.open_push(network, BOOTS)
    with pytest.raises(NetworkDescriptionError, match=message):
        ledger.open_batch(push, 9, 8, BOOTS, engine)
    assert not ledger._batches


def test_another_push_gets_nothing():
    ledger, _, material = opened()
    other = ledger.open_push(NETWORK, BOOTS)
    with pytest.raises(RemoteProtocolError, match="bound to another push, plan or run"):
        ledger.claim_batch(Role.A, material, other, PLAN.digest, BOOTS)


def test_a_refused_claim_claims_nothing():
    ledger, push, material = opened()
    with pytest.raises(RemoteProtocolError):
        ledger.claim_batch(Role.A, material, push, b"", BOOTS)
    ledger.claim_batch(Role.A, material, push, PLAN.digest, BOOTS)


def test_a_restarted_dealer_knows_nothing():
    _, push, material = opened()
    restarted = DealingLedger()
    with pytest.raises(NotFoundError, match="unknown to this dealer .restarted"):
        restarted.open_batch(push, 9, 8, BOOTS)
    with pytest.raises(NotFoundError, match="unknown to this dealer"):
        restarted.claim_push(Role.A, push, BOOTS, NETWORK.digest)
    with pytest.raises(NotFoundError, match="unknown to this dealer"):
        restarted.claim_batch(Role.A, material, push, PLAN.digest, BOOTS)


def test_unknown_identifiers():
    ledger, push, _ = opened()
    with pytest.raises(NotFoundError):
        ledger.open_batch(PushId.fresh(), 9, 8, BOOTS)
    with pytest.raises(NotFoundError):
        ledger.claim_batch(Role.A, MaterialId(push.value), push, PLAN.digest, BOOTS)


def test_identifiers_and_keys_are_fresh():
    ledger = DealingLedger()
    pushes = [ledger.open_push(NETWORK, BOOTS) for _ in range(50)]
    batches = [ledger.open_batch(pushes[0], 9, 8, BOOTS) for _ in range(50)]
    assert len({*pushes, *batches}) == 100
    keys = [entry.key for entry in (*ledger._pushes.values(), *ledger._batches.values())]
    assert len(set(keys)) == 100
    assert {len(key) for key in keys} == {32}


def test_keys_are_not_printed():
    ledger, push, material = opened()
    for entry in (ledger.push(push), ledger.claim_batch(Role.A, material, push, PLAN.digest, BOOTS)):
        assert repr(entry.key)[2:-1] not in repr(entry)
        assert "key" not in repr(entry)


def test_an_image_that_does_not_fit_opens_nothing():
    ledger, push, _ = opened()
    with pytest.raises(NetworkDescriptionError):
        ledger.open_batch(push, 7, 8, BOOTS)
    assert len(ledger._batches) == 1


def test_unclaimed_material_is_bounded(monkeypatch):
    monkeypatch.setattr(ledger_module, "OPEN_LIMIT", 3)
    ledger, push, oldest = opened()
    newer = [ledger.open_batch(push, 9, 8, BOOTS, CRYPTEN) for _ in range(3)]
    with pytest.raises(NotFoundError):
        ledger.claim_batch(Role.A, oldest, push, PLAN.digest, BOOTS)
    for material in newer:
        ledger.claim_batch(Role.A, material, push, PLAN.digest, BOOTS)
    assert len(ledger._batches) == 3


def test_pushes_are_bounded_and_the_one_in_use_stays(monkeypatch):
    monkeypatch.setattr(ledger_module, "PUSH_LIMIT", 3)
    ledger, used, _ = opened()
    unused = ledger.open_push(OTHER, BOOTS)
    for _ in range(5):
        ledger.open_batch(used, 9, 8, BOOTS)
        ledger.open_push(OTHER, BOOTS)
    assert len(ledger._pushes) == 3
    assert ledger.push(used).network == NETWORK
    with pytest.raises(NotFoundError, match="must be masked again"):
        ledger.push(unused)


def test_of_many_threads_one_gets_the_half():
    for _ in range(20):
        ledger, push, material = opened()
        start, got = threading.Barrier(4), []

        def claim(ledger=ledger, push=push, material=material, start=start, got=got):
            start.wait(10)
            try:
                got.append(ledger.claim_batch(Role.A, material, push, PLAN.digest, BOOTS))
            except MaterialReusedError:
                pass

        threads = [threading.Thread(target=claim) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(got) == 1


def test_what_was_dealt_to_an_earlier_run_of_a_server_is_forgotten():
    """Its keys are the material of a dead session: nobody can claim it, and whoever reads this memory could unmask with it."""
    ledger, push, material = opened()
    kept = ledger.open_push(NETWORK, BOOTS)
    assert set(ledger._pushes) == {push, kept}
    fresh = ledger.open_push(NETWORK, RESTARTED[0])
    assert set(ledger._pushes) == {fresh}
    assert not ledger._batches
    with pytest.raises(NotFoundError):
        ledger.claim_batch(Role.A, material, push, PLAN.digest, BOOTS)
