import copy
import pickle
from dataclasses import dataclass, field, replace

import pytest

from protocols.unpicklable import Unpicklable


@dataclass(frozen=True, eq=False)
class Key(Unpicklable):
    value: bytes = field(repr=False)


@pytest.mark.parametrize("attempt", [pickle.dumps, copy.copy, copy.deepcopy, lambda key: pickle.dumps([key], protocol=0)])
def test_pickling_and_copying_are_refused_without_the_secret(attempt):
    with pytest.raises(TypeError, match="Key holds secrets") as refused:
        attempt(Key(b"secret" * 5))
    assert "secretsecret" not in str(refused.value)


def test_replacing_a_field_still_works():
    assert replace(Key(b"old"), value=b"new").value == b"new"
