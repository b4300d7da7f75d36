import threading

import pytest

from client.acquisition import store
from client.calls import Calls
from client.edge import denoise
from client.model_owner import push_model
from protocols.identifiers import Role
from tests.client.test_model_owner import model  # noqa: F401 - a fixture


class Call:
    def __init__(self):
        self.cancelled = 0

    def cancel(self):
        self.cancelled += 1


def test_all_are_cancelled_and_those_that_begin_later_too():
    calls = Calls()
    first, second = calls.begin(Call), calls.begin(Call)
    assert (first.cancelled, second.cancelled) == (0, 0)
    calls.cancel()
    late = calls.begin(Call)
    assert (first.cancelled, second.cancelled, late.cancelled) == (1, 1, 1)


@pytest.fixture
def threads(servers, monkeypatch):
    """By call: the threads in which it was begun."""
    begun = {}
    for name in ("_store", "Denoise", "future"):
        original = getattr(type(servers[Role.A]), name)

        def recorded(self, *arguments, original=original, name=name, **options):
            begun.setdefault(name, set()).add(threading.current_thread())
            return original(self, *arguments, **options)

        monkeypatch.setattr(type(servers[Role.A]), name, recorded)
    return begun


def test_ctrl_c_never_falls_into_the_beginning_of_a_call(hospital, servers, image, model, threads):  # noqa: F811
    """It interrupts the main thread, and gRPC's channel would then wait for ever when it is closed."""
    record = store(hospital, image)
    denoise(hospital, record.object_id, model="base")
    push_model(hospital, model)
    assert set(threads) == {"_store", "Denoise", "future"}
    assert threading.main_thread() not in set().union(*threads.values())
