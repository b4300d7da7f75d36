"""One session is evaluated while the next is prepared, at both servers: in what order, with how many workers, and how each ends.

Two servers joined in memory with fake workers (tests/server/joined_servers.py).
"""

import threading

import pytest

from protocols.engines import MASKED
from protocols.errors import AccessDenied, PeerUnavailableError, SessionBrokenError
from protocols.identifiers import Role
from protocols.tiles import Tile
from server import evaluation
from tests.server.joined_servers import SECONDS, Site


class Held:
    """Holds a session back at one stage, at both servers, and knows how to cancel it there."""

    def __init__(self, stage="evaluating"):
        self._stage, self._go = stage, threading.Event()
        self._here = threading.Semaphore(0)
        self.aborts = {}

    def __call__(self, role, stage, abort):
        if stage.startswith(self._stage):
            self.aborts[role] = abort
            self._here.release()
            assert self._go.wait(SECONDS)

    def reached(self):
        """By both."""
        assert all(self._here.acquire(timeout=SECONDS) for _ in Role)

    def go(self):
        self._go.set()


class Watched(Held):
    """A session that goes on by itself; what it has come to can be waited for."""

    def __init__(self, stage):
        super().__init__(stage)
        self.go()


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, MASKED)
    site.session(1)  # the model is masked now
    for workers in site.workers.values():
        for kept in (workers.log, workers.jobs, workers.taken):
            kept.clear()
    return site


@pytest.fixture
def evaluated(site):
    """A session under way, until the test lets it end."""
    held = Held()
    held.session = site.begin(2, during=held)
    held.reached()
    yield held
    held.go()
    held.session.ends()
    site.require_idle()


def succeeded(session):
    a, b, stages = session.ends()
    assert (a.share, len(b.share)) == (bytes(32), 8 * 72)
    return stages


def test_material_of_the_next_session_is_here_while_one_is_evaluated_and_a_third_waits_in_line(site, evaluated):
    ahead, line = Watched("waiting: 1 ahead"), Watched("waiting: 2 ahead")
    second = site.begin(3, during=ahead)
    ahead.reached()
    third = site.begin(4, during=lambda role, stage, abort: role is Role.A and line(role, stage, abort))
    assert line._here.acquire(timeout=SECONDS)  # at A: B has no order of it
    for role in Role:
        assert [job.role for job in site.workers[role].jobs] == [role.value] * 2
        assert [worker.stopped for worker in site.workers[role].taken] == [False] * 2
    evaluated.go()
    for session in (second, third):
        stages = succeeded(session)
        for role in Role:
            assert stages[role][-1] == "evaluating"
    for role in Role:
        assert second.stages[role].index("dealing") < second.stages[role].index("waiting: 1 ahead")
        assert len({job.material_id for job in site.workers[role].jobs}) == 3
    assert site.materials[Role.A] == site.materials[Role.B]


def test_offline_seconds_of_a_prepared_session_leave_out_that_it_waited(site, evaluated, monkeypatch):
    """By a clock that the test moves on: an hour."""
    ahead, hour = Held("waiting: 1 ahead"), []
    monkeypatch.setattr("server.tile_evaluation.monotonic", lambda: 100.0 + 3600.0 * len(hour))
    monkeypatch.setattr("server.outcome.monotonic", lambda: 100.0 + 3600.0 * len(hour))
    second = site.begin(3, during=ahead)
    ahead.reached()
    hour.append(True)
    ahead.go()
    evaluated.go()
    succeeded(second)
    assert [second.results[role].offline_seconds for role in Role] == [0.0, 0.0]


@pytest.mark.parametrize("role", Role)
def test_a_session_that_is_cancelled_when_prepared_gives_its_worker_back_and_burns_its_material(site, evaluated, role):
    ahead = Watched("waiting: 1 ahead")
    second = site.begin(3, during=ahead)
    ahead.reached()
    ahead.aborts[role]()
    evaluated.go()  # the other server learns of it by the broken link, once it evaluates
    for error in second.ends()[:2]:
        assert isinstance(error, PeerUnavailableError)
    assert isinstance(second.results[role], SessionBrokenError)
    assert all(site.workers[at].taken[1].stopped for at in Role)
    third = site.begin(4)
    succeeded(third)
    for at in Role:
        assert len({job.material_id for job in site.workers[at].jobs}) == 3


def test_a_session_goes_on_where_the_one_before_breaks_off(site, evaluated):
    ahead = Watched("waiting: 1 ahead")
    second = site.begin(3, during=ahead)
    ahead.reached()
    for abort in evaluated.aborts.values():
        abort()
    succeeded(second)


def test_a_flagged_evaluation_is_repeated_before_the_prepared_session(site, evaluated):
    for role in Role:
        site.workers[role].behaviour[role, "flags"] = [1]
    ahead = Watched("waiting: 1 ahead")
    second = site.begin(3, during=ahead)
    ahead.reached()
    evaluated.go()
    assert [outcome.flags for outcome in evaluated.session.ends()[:2]] == [1, 1]
    succeeded(second)
    assert site.materials[Role.A] == site.materials[Role.B]


def test_an_image_of_several_tiles_takes_no_worker_while_another_session_is_evaluated(site, evaluated, monkeypatch):
    tiles = [Tile(0, 0, 8, 9, 0, 0, 8, 9)] * 2
    monkeypatch.setattr(evaluation, "image_tiles", lambda *_: tiles)
    line = Held("waiting: 1 ahead")
    second = site.begin(3, during=lambda role, stage, abort: role is Role.A and line(role, stage, abort))
    assert line._here.acquire(timeout=SECONDS)
    third = site.begin(4)
    assert [len(site.workers[role].taken) for role in Role] == [1, 1]
    evaluated.go()
    line.go()
    for session in (second, third):
        stages = session.ends()[2]
        assert stages[Role.A].index("dealing") > max(
            place for place, stage in enumerate(stages[Role.A]) if stage.startswith("waiting")
        )


def test_the_model_is_masked_when_no_other_session_is_evaluated(site, evaluated):
    site.restart_dealer()  # which knows no push any more
    line = Watched("waiting: 1 ahead")
    second = site.begin(3, during=lambda role, stage, abort: role is Role.A and line(role, stage, abort))
    assert line._here.acquire(timeout=SECONDS)
    assert "masking the model" not in second.stages[Role.A]
    evaluated.go()
    evaluated.session.ends()
    stages = succeeded(second)
    assert stages[Role.A][-3:] == ["masking the model", "dealing", "evaluating"]
    assert [len(workers.taken) for workers in site.workers.values()] == [2, 2]


def test_a_repetition_that_masks_anew_and_the_session_behind_it_agree_on_the_push(site, evaluated):
    """The dealer restarts while one is evaluated, which is flagged then: it masks the model, and the next finds that done."""
    for role in Role:
        site.workers[role].behaviour[role, "flags"] = [1]
    site.restart_dealer()
    line = Watched("waiting: 1 ahead")
    second = site.begin(3, during=lambda role, stage, abort: role is Role.A and line(role, stage, abort))
    assert line._here.acquire(timeout=SECONDS)
    evaluated.go()
    a, b, stages = evaluated.session.ends()
    assert (a.flags, b.flags) == (1, 1)
    assert "masking the model" in stages[Role.A]
    assert "masking the model" not in succeeded(second)[Role.A]
    assert second.results[Role.A].push_id == a.push_id


def test_a_window_that_closes_while_a_session_is_prepared_stays_closed(site, evaluated):
    def closed():
        raise AccessDenied("the access window has closed")

    ahead = Watched("waiting: 1 ahead")
    second = site.begin(3, during=ahead, require_window=closed)
    ahead.reached()
    evaluated.go()
    a, b, stages = second.ends()
    assert isinstance(b, AccessDenied)
    assert isinstance(a, PeerUnavailableError)
    assert "evaluating" not in stages[Role.B]
