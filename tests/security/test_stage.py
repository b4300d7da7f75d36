import os

import pytest

from protocols import dealing, masked_dealing
from protocols.dealing import PartyMaterial, corrections
from protocols.identifiers import Role
from protocols.layers import Conv, Gate
from protocols.network import Network
from protocols.plan import ProductTriple, WeightTriple, masked_weights, plan_for
from security.broken_dealing import apply_fault
from security.stage import VARIABLE, Fault, Stage

NETWORK = Network((Conv("pair", "image", 2, 1), Gate("square", "pair")))
SEEDS = {Role.A: bytes(32), Role.B: bytes(range(32))}


def test_children_find_the_stage_and_the_environment_is_put_back(tmp_path):
    stage = Stage(tmp_path / "recordings", Fault.REUSED)
    with stage.set_for_children():
        assert Stage.from_environment() == stage
    assert VARIABLE not in os.environ
    with pytest.raises(KeyError):
        Stage.from_environment()


def test_dropped_masks_are_zero_and_the_material_still_fits(monkeypatch):
    monkeypatch.setattr(dealing, "_expand", dealing._expand)  # put back at the end
    monkeypatch.setattr(masked_dealing, "Prg", masked_dealing.Prg)
    apply_fault(Fault.DROPPED)
    plan = plan_for(NETWORK, 8, 8)
    masks = {name: dealing.weight_mask_share(SEEDS[Role.A], 0, shape) for name, shape in masked_weights(NETWORK, 8, 8).items()}
    materials = {role: PartyMaterial(role, plan, SEEDS[role]) for role in Role}
    for index, words in corrections(plan, SEEDS[Role.A], SEEDS[Role.B], masks):
        materials[Role.B].correct(index, words)
    for kind in (WeightTriple, ProductTriple):
        dealt = [materials[role].take(kind)[2] for role in Role]
        assert not any(share.a.any() for share in dealt)
        assert not (dealt[0].c + dealt[1].c).any()  # a b = 0


def test_reused_seeds_do_not_depend_on_the_material(monkeypatch):
    monkeypatch.setattr(dealing, "session_seed", dealing.session_seed)
    before = [dealing.session_seed(bytes(32), Role.A, material, b"") for material in _two_materials()]
    assert before[0] != before[1]
    apply_fault(Fault.REUSED)
    after = [dealing.session_seed(bytes(32), Role.A, material, b"") for material in _two_materials()]
    assert after[0] == after[1]


def _two_materials():
    from protocols.identifiers import MaterialId

    return MaterialId("1" * 32), MaterialId("2" * 32)
