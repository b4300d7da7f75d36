"""A flagged truncation ends in a clean repeat on fresh material: what is repeated, what is released, what it costs, and when it
ends. Two servers joined in memory with fake workers, which flag as the test says (tests/server/joined_servers.py).
"""

import pytest

from protocols.engines import MASKED, session_plan
from protocols.errors import PeerUnavailableError, RemoteProtocolError
from protocols.identifiers import MaterialId, Role
from server.outcome import MAX_REPEATS
from server.pipe import Kind, Pipe
from tests.server.joined_servers import NETWORK, Site

REPEATING = "repeating: a truncation was flagged"


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, MASKED)
    site.session(1)  # the model is masked now
    for workers in site.workers.values():
        workers.log.clear()
        workers.jobs.clear()
    return site


def flag(site, *flags, roles=tuple(Role)):
    """Flagged wires of the coming evaluations, one number each."""
    for role in roles:
        site.workers[role].behaviour[role, "flags"] = list(flags)


@pytest.mark.parametrize("times", [1, 2, MAX_REPEATS])
def test_flagged_evaluations_are_repeated_until_one_is_not(site, times):
    flag(site, *[1 + n for n in range(times)])
    a, b, stages = site.session(2)
    assert a.share == bytes(32)
    assert b.share != b""
    for outcome in (a, b):
        assert not outcome.flagged
        assert outcome.flags == times
    once = ["dealing", "evaluating"]
    assert stages[Role.A] == once + (times * [REPEATING, *once])
    assert stages[Role.B] == ["waiting for server A", *once] + times * [REPEATING, *once]


def test_each_repeat_has_its_own_material_seeds_and_key_of_a_and_b(site):
    flag(site, 1, 1)
    site.session(2)
    assert site.materials[Role.A] == site.materials[Role.B]
    for role in Role:
        jobs = site.workers[role].jobs
        for name in ("material_id", "material_seed", "peer_key"):
            assert len({getattr(job, name) for job in jobs}) == 3, name
        for name in ("image_share", "sigma_share", "network", "deltas", "push_seed", "bias_shares", "noise_key", "engine"):
            assert len({getattr(job, name) for job in jobs}) == 1, name
    for one, other in zip(*(site.workers[role].jobs for role in Role), strict=True):
        assert one.peer_key == other.peer_key


def test_each_repeat_has_a_worker_of_its_own(site):
    flag(site, 1, 1)
    site.session(2)
    for role in Role:
        assert len(site.workers[role].taken) == 4  # one of them before the test
        assert all(worker.stopped for worker in site.workers[role].taken)


def test_no_share_leaves_a_worker_with_a_flag(site, monkeypatch):
    sent = []
    send = Pipe.send

    def watched(pipe, kind, payload=b"", label=0):
        if kind in (Kind.STATS, Kind.RESULT):
            sent.append(kind)
        send(pipe, kind, payload, label)

    monkeypatch.setattr(Pipe, "send", watched)
    flag(site, 1)
    a, b, _ = site.session(2)
    assert (sent.count(Kind.STATS), sent.count(Kind.RESULT)) == (4, 2)
    assert (a.flags, b.flags) == (1, 1)


def test_after_the_last_repeat_both_sides_refuse(site):
    flag(site, *[1] * (MAX_REPEATS + 1))
    for error in site.session(2)[:2]:
        assert isinstance(error, RemoteProtocolError)
        assert str(error) == ("truncation was flagged in 4 evaluations in a row: the ranges of the model's wires are too wide")
    assert len(set(site.materials[Role.A])) == MAX_REPEATS + 1
    flag(site)
    assert [outcome.flags for outcome in site.session(3)[:2]] == [0, 0]  # and nothing is left behind


def test_costs_are_added_up_and_peaks_are_not(site):
    plain = site.session(2)[:2]
    flag(site, 1, 1)
    for one, outcome in zip(plain, site.session(3)[:2], strict=True):
        for name in ("ahead_seconds", "online_seconds", "rounds", "sent_bytes"):
            assert getattr(outcome.stats, name) == 3 * getattr(one.stats, name), name
        assert outcome.dealt_bytes == 3 * one.dealt_bytes
        assert outcome.offline_seconds > 0
        assert outcome.peak_rss_bytes == 300 + 1000 + 4  # nursery and last worker, the fake one's fourth: one at a time
        assert (outcome.shape, outcome.engine, outcome.push_id) == (one.shape, one.engine, one.push_id)


def test_a_spare_worker_is_asked_for_after_each_session_with_the_memory_of_its_plan(site):
    """Not in between: a repetition, or a tile, comes at once."""
    for workers in site.workers.values():
        workers.spares.clear()
    flag(site, 1)
    site.session(2)
    plan = session_plan(MASKED, NETWORK, 8, 9)
    memory = plan.dealt_bytes + 8 * sum(plan.opened_words(index) for index in range(plan.rounds))
    assert [workers.spares for workers in site.workers.values()] == 2 * [[memory]]


def test_what_the_nursery_shares_with_the_worker_is_counted_once(site):
    for role in Role:
        site.workers[role].behaviour["nursery private"] = 40
    assert {outcome.peak_rss_bytes for outcome in site.session(2)[:2]} == {40 + 1000 + 1}  # of each server's first worker


def test_nothing_else_is_repeated(site):
    site.workers[Role.B].behaviour[Role.B, 1] = "fails"
    a, b, stages = site.session(2)
    assert isinstance(a, PeerUnavailableError)
    assert isinstance(b, RemoteProtocolError)
    assert REPEATING not in stages[Role.A] + stages[Role.B]
    assert len(site.materials[Role.A]) == 1


def test_a_failure_in_a_repeat_ends_the_session_on_both_sides(site):
    flag(site, 1)

    def break_the_second(role, stage, abort):
        if stage == REPEATING:
            site.workers[role].behaviour[Role.A, 1] = "dies"

    for result in site.session(2, during=break_the_second)[:2]:
        assert isinstance(result, PeerUnavailableError)
    assert len(set(site.materials[Role.A])) == 2


@pytest.mark.parametrize("role", Role)
def test_an_edge_that_leaves_between_two_evaluations_ends_the_session_on_both_sides(site, role):
    flag(site, 1, 1)

    def leave(at, stage, abort):
        if at is role and stage == REPEATING:
            abort()

    for result in site.session(2, during=leave)[:2]:
        assert isinstance(result, PeerUnavailableError)


@pytest.mark.parametrize("role", Role)
def test_a_server_that_sees_a_flag_alone_gets_no_second_evaluation_of_the_other(site, role):
    """A peer that deviates can make one side see a flag: the session ends, and the other's material is burnt."""
    flag(site, 1, roles=[role])
    results = dict(zip(Role, site.session(2)[:2], strict=True))
    assert isinstance(results[role], PeerUnavailableError)
    assert results[role.peer].flags == 0
    assert len(site.materials[role.peer]) == 1


def test_material_named_again_in_a_repeat_reaches_no_worker(site):
    flag(site, 1)
    used = []

    def name_again(role, stage, abort):
        if role is Role.A and stage == REPEATING:
            used.extend(site.materials[Role.A])
            site.dealers[Role.A].named = [MaterialId(used[0])]

    a, b, _ = site.session(2, during=name_again)
    for error in (a, b):
        assert "was used in an earlier session" in str(error)
    assert site.materials[Role.A] == site.materials[Role.B] == used


def test_servers_that_disagree_on_the_repeat_stop(site):
    """B restarts its ledger of models between the two evaluations: A's order names a push that it does not hold."""
    flag(site, 1)

    def forget(role, stage, abort):
        if role is Role.B and stage == REPEATING:
            site.registries[Role.B].forget("base")

    a, b, _ = site.session(2, during=forget)
    assert isinstance(b, RemoteProtocolError)
    assert "which this server does not hold" in str(b)
    assert isinstance(a, PeerUnavailableError)
