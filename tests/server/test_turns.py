"""The queue in front of the evaluation: bounded, in order, one prepared ahead, honest about the wait, and left at once.

No sockets, no real clock.
"""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import BusyError, LocalProtocolError, PeerUnavailableError
from server.turns import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, REMEMBERED_TURNS, TurnQueue

SECONDS = 60


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def make(clock, waiting=3):
    return TurnQueue("server A", waiting, clock=clock)


def prepare(queue):
    place = queue.enter()
    assert list(place.prepare()) == []
    return place


def take(queue):
    place = prepare(queue)
    assert list(place.evaluate()) == []
    return place


def fail_in_turn(queue):
    with prepare(queue):
        raise ZeroDivisionError


def evaluate(queue, clock, seconds):
    place = take(queue)
    clock.now += seconds
    place.leave(done=True)


class Waiter:
    """A session in a thread of its own. alone: it prepares when nobody evaluates."""

    def __init__(self, place, *, alone=False):
        self.place, self.said, self.error, self._alone = place, [], None, alone
        self.changed = threading.Condition()
        self.prepared, self.turn = threading.Event(), threading.Event()
        self.ended = threading.Thread(target=self._run, daemon=True)
        self.ended.start()

    def _run(self):
        try:
            self._hear(self.place.prepare())
            self.prepared.set()
            self._hear(self.place.alone() if self._alone else self.place.evaluate())
            self.turn.set()
        except PeerUnavailableError as error:
            self.error = error

    def _hear(self, sentences):
        for sentence in sentences:
            with self.changed:
                self.said.append(sentence)
                self.changed.notify_all()

    def says(self, sentence):
        with self.changed:
            assert self.changed.wait_for(lambda: self.said and self.said[-1] == sentence, SECONDS), self.said


def test_first_come_first_served_and_each_is_told_how_many_are_ahead(clock):
    queue = make(clock)
    holder = take(queue)
    waiters = []
    for ahead in (1, 2, 3):
        waiters.append(Waiter(queue.enter()))
        waiters[-1].says(f"waiting: {ahead} ahead")
    assert (queue.busy, queue.waiting) == (True, 3)
    served = holder
    for number, waiter in enumerate(waiters):
        served.leave(done=True)
        assert waiter.turn.wait(SECONDS)
        assert not any(later.turn.is_set() for later in waiters[number + 1 :])
        served = waiter.place
    served.leave(done=True)
    assert (queue.busy, queue.waiting) == (False, 0)
    for waiter in waiters:
        assert waiter.said == sorted(waiter.said, reverse=True)
        assert len(set(waiter.said)) >= len(waiter.said) - 1  # the same may be said in line, and again when prepared


def test_the_wait_is_estimated_from_the_median_of_recent_evaluations(clock):
    queue = make(clock)
    for seconds in (10.0, 10.0, 500.0):  # one large image does not spoil the estimate
        evaluate(queue, clock, seconds)
    holder = take(queue)
    clock.now += 4.0
    first, second = Waiter(queue.enter()), None  # the first is prepared, and waits for the evaluation
    first.says("waiting: 1 ahead, about 6 s")
    second = Waiter(queue.enter())
    second.says("waiting: 2 ahead, about 16 s")
    clock.now += 100.0  # over its usual time: no negative wait
    third = Waiter(queue.enter())
    third.says("waiting: 3 ahead, about 20 s")
    for place in (third.place, second.place, first.place, holder):
        place.leave()


def test_old_evaluations_are_forgotten(clock):
    queue = make(clock)
    evaluate(queue, clock, 100.0)
    for _ in range(REMEMBERED_TURNS):
        evaluate(queue, clock, 2.0)
    holder = take(queue)
    waiter = Waiter(queue.enter())
    waiter.says("waiting: 1 ahead, about 2 s")
    waiter.place.leave()
    holder.leave()


def test_a_session_that_failed_does_not_count_for_the_estimate(clock):
    queue = make(clock)
    place = take(queue)
    clock.now += 0.1
    place.leave()
    take(queue)
    waiter = Waiter(queue.enter())
    waiter.says("waiting: 1 ahead")


def test_beyond_the_bound_busy_says_when_to_try_again(clock):
    queue = make(clock, waiting=1)
    places = [queue.enter(), queue.enter()]
    with pytest.raises(BusyError, match=f"server A is busy: 2 sessions .* try again in about {FIRST_RETRY_SECONDS} s") as refused:
        queue.enter()
    assert refused.value.retry_seconds == FIRST_RETRY_SECONDS
    places[1].leave()
    queue.enter()


@pytest.mark.parametrize(
    ("usual", "since", "expected"), [(12.0, 5.0, 7), (12.0, 50.0, 1), (0.2, 0.0, 1), (1e6, 0.0, LONGEST_RETRY_SECONDS)]
)
def test_the_time_to_try_again_is_when_the_evaluation_under_way_usually_ends(clock, usual, since, expected):
    queue = make(clock, waiting=0)
    evaluate(queue, clock, usual)
    take(queue)
    clock.now += since
    with pytest.raises(BusyError) as refused:
        queue.enter()
    assert refused.value.retry_seconds == expected


def test_without_room_to_wait_one_session_at_a_time(clock):
    queue = make(clock, waiting=0)
    with take(queue), pytest.raises(BusyError):
        queue.enter()
    take(queue)


def test_who_leaves_while_waiting_is_woken_and_the_others_move_up(clock):
    queue = make(clock)
    take(queue)
    leaving, staying = Waiter(queue.enter()), None
    leaving.says("waiting: 1 ahead")
    staying = Waiter(queue.enter())
    staying.says("waiting: 2 ahead")
    leaving.place.leave()
    leaving.ended.join(SECONDS)
    assert "cancelled while it waited" in str(leaving.error)
    assert leaving.error.retry_seconds is None
    staying.says("waiting: 1 ahead")
    assert queue.waiting == 1
    leaving.place.leave()  # again: nothing
    assert queue.waiting == 1


def test_a_place_that_was_left_before_the_line_gets_no_turn(clock):
    queue = make(clock)
    place = queue.enter()
    place.leave()
    with pytest.raises(PeerUnavailableError):
        list(place.prepare())
    take(queue)


def test_the_context_gives_turn_and_place_back_after_an_error(clock):
    queue = make(clock, waiting=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            fail_in_turn(queue)
    take(queue)


def test_lining_up_twice_is_our_bug(clock):
    place = take(make(clock))
    with pytest.raises(LocalProtocolError):
        list(place.prepare())
    preparing, waiting = prepare(make(clock)), make(clock).enter()
    with pytest.raises(LocalProtocolError):
        list(preparing.prepare())
    with pytest.raises(LocalProtocolError, match="after it has prepared"):
        list(waiting.evaluate())


def three(queue):
    """One that evaluates, one that is prepared and waits for it, and one that waits in line."""
    evaluated = take(queue)
    prepared = Waiter(queue.enter())
    prepared.says("waiting: 1 ahead")
    waiting = Waiter(queue.enter())
    waiting.says("waiting: 2 ahead")
    return evaluated, prepared, waiting


def test_one_session_is_prepared_while_one_is_evaluated_and_the_next_waits_in_line(clock):
    queue = make(clock)
    evaluated, prepared, waiting = three(queue)
    assert prepared.prepared.is_set()
    assert not prepared.turn.is_set()
    assert not waiting.prepared.is_set()
    evaluated.leave()
    assert prepared.turn.wait(SECONDS)
    assert waiting.prepared.wait(SECONDS)
    waiting.says("waiting: 1 ahead")
    assert not waiting.turn.is_set()
    assert (queue.busy, queue.waiting) == (True, 1)


def test_who_repeats_has_evaluating_already_and_keeps_nobody_from_preparing(clock):
    queue = make(clock)
    place = prepare(queue)
    assert taken(place.evaluate()) is True
    prepared = prepare(queue)
    assert taken(place.evaluate()) is False
    assert list(place.alone()) == []
    following = Waiter(queue.enter())
    following.says("waiting: 2 ahead")
    prepared.leave()
    assert following.prepared.wait(SECONDS)
    assert not following.turn.is_set()


def taken(steps):
    """What a generator that yields nothing returns."""
    with pytest.raises(StopIteration) as end:
        next(steps)
    return end.value.value


def test_who_is_alone_waits_for_the_evaluation_under_way_and_nobody_prepares_beside_it(clock):
    queue = make(clock)
    evaluated = take(queue)
    alone, following = Waiter(queue.enter(), alone=True), None
    alone.says("waiting: 1 ahead")
    following = Waiter(queue.enter())
    following.says("waiting: 2 ahead")
    evaluated.leave()
    assert alone.turn.wait(SECONDS)
    following.says("waiting: 1 ahead")
    assert not following.prepared.is_set()
    alone.place.leave(done=True)
    assert following.turn.wait(SECONDS)


def test_who_was_alone_lets_the_next_prepare_once_it_says_that_it_evaluates(clock):
    queue = make(clock)
    alone = prepare(queue)
    assert list(alone.alone()) == []
    following = Waiter(queue.enter())
    following.says("waiting: 1 ahead")
    assert not following.prepared.is_set()
    assert taken(alone.evaluate()) is False
    assert following.prepared.wait(SECONDS)
    assert not following.turn.is_set()


def test_a_session_that_is_cancelled_when_prepared_makes_room_for_another_and_the_evaluation_goes_on(clock):
    evaluated, cancelled, following = three(make(clock))
    cancelled.place.leave()
    cancelled.ended.join(SECONDS)
    assert "cancelled while it waited" in str(cancelled.error)
    assert following.prepared.wait(SECONDS)
    following.says("waiting: 1 ahead")
    assert not following.turn.is_set()
    evaluated.leave(done=True)
    assert following.turn.wait(SECONDS)


def test_an_evaluation_that_breaks_off_gives_the_prepared_session_its_turn(clock):
    queue = make(clock)
    evaluated, prepared = take(queue), Waiter(queue.enter())
    prepared.says("waiting: 1 ahead")
    evaluated.leave()
    assert prepared.turn.wait(SECONDS)


def test_a_session_that_was_prepared_meanwhile_is_reckoned_from_the_end_of_the_one_before(clock):
    """What the estimate is for: how long each keeps the next one waiting."""
    queue = make(clock)
    first = take(queue)
    second = prepare(queue)
    clock.now += 10.0
    first.leave(done=True)
    clock.now += 4.0
    third = Waiter(queue.enter())
    third.says("waiting: 1 ahead, about 6 s")  # the second is not even evaluated
    assert list(second.evaluate()) == []
    clock.now += 2.0
    second.leave(done=True)  # after six seconds: the median is 8
    assert third.turn.wait(SECONDS)
    fourth = Waiter(queue.enter())
    fourth.says("waiting: 1 ahead, about 8 s")


def test_draining_lets_the_prepared_session_end_as_usual(clock):
    queue = make(clock)
    evaluated, dropped = take(queue), []
    prepared = Waiter(queue.enter(lambda: dropped.append("prepared")))
    prepared.says("waiting: 1 ahead")
    queue.drain()
    evaluated.leave(done=True)
    assert prepared.turn.wait(SECONDS)
    prepared.place.leave(done=True)
    assert dropped == []
    assert not queue.busy


def test_draining_keeps_the_turn_drops_who_waits_and_lets_nobody_in(clock):
    queue = make(clock)
    holder = take(queue)
    prepare(queue)
    dropped = []
    place = queue.enter(lambda: dropped.append("waiting"))
    waiter = Waiter(place)
    waiter.says("waiting: 2 ahead")
    not_in_line = queue.enter(lambda: dropped.append("not in line"))
    queue.drain()
    waiter.ended.join(SECONDS)
    assert sorted(dropped) == ["not in line", "waiting"]
    holder.require()
    for error in (
        waiter.error,
        pytest.raises(PeerUnavailableError, not_in_line.require).value,
        pytest.raises(PeerUnavailableError, queue.enter).value,
    ):
        assert "server A is shutting down, and nothing was begun" in str(error)
        assert not isinstance(error, BusyError)
        assert error.retry_seconds > 0
    assert queue.busy
    holder.leave(done=True)
    assert queue.busy  # who is prepared has kept its turn


ACTIONS = ["enter", "prepare", "evaluate", "alone", "leave the first", "leave the last"]


@given(st.lists(st.sampled_from(ACTIONS), max_size=80), st.integers(0, 4))
def test_never_more_places_than_capacity_and_never_two_in_a_stage(actions, waiting):
    """Against a model of the two stages; a step is made where it would not wait."""
    queue = make(Clock(), waiting)
    places, preparing, evaluating = [], None, None
    for action in actions:
        if action == "enter":
            if len(places) == queue.capacity:
                pytest.raises(BusyError, queue.enter)
            else:
                places.append(queue.enter())
        elif action == "prepare" and preparing is None:
            fresh = [place for place in places if place is not evaluating]
            if fresh:
                preparing = fresh[0]
                assert list(preparing.prepare()) == []
        elif action in ("evaluate", "alone") and preparing is not None and evaluating in (None, preparing):
            evaluating = preparing
            assert list(evaluating.evaluate() if action == "evaluate" else evaluating.alone()) == []
            preparing = None if action == "evaluate" else preparing
        elif action.startswith("leave") and places:
            place = places.pop(0 if action == "leave the first" else -1)
            place.leave(done=place is evaluating)
            preparing, evaluating = (None if place is holder else holder for holder in (preparing, evaluating))
        assert queue._preparing is preparing
        assert queue._evaluating is evaluating
        assert queue.busy == (preparing is not None or evaluating is not None)
        assert queue.waiting == len(places) - queue.busy
