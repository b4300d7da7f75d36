import dataclasses
from dataclasses import dataclass, field

import pytest
import torch

from security.secret_types import KEY, CarelessKey, bearers, canary_needles, planted, shown

NEEDLES = canary_needles()
BEARERS = list(bearers())


def test_the_types_that_are_known_to_hold_secrets_are_among_those_found():
    names = {type(instance).__name__ for instance in BEARERS}
    assert names >= {"MasterKey", "SigningKey", "NoiseKeys", "Prg", "SharePair", "SourceImage", "ObjectRecord", "Identity"}
    assert names >= {"PartyMaterial", "WeightMasking", "Push", "Batch", "EvaluationRequest", "StoredShare", "MaskedWeight"}


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


def test_planting_fills_every_field():
    for instance in BEARERS:
        if dataclasses.is_dataclass(instance):
            assert all(hasattr(instance, entry.name) for entry in dataclasses.fields(instance))
