"""The queue in front of the evaluation: bounded, in order, honest about the wait, and left at once. No sockets, no real clock."""

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


def take(queue):
    place = queue.enter()
    assert list(place.turn()) == []
    return place


def fail_in_turn(queue):
    with queue.enter() as place:
        assert list(place.turn()) == []
        raise ZeroDivisionError


def evaluate(queue, clock, seconds):
    place = take(queue)
    clock.now += seconds
    place.leave(done=True)


class Waiter:
    """A session in a thread of its own."""

    def __init__(self, place):
        self.place, self.said, self.error = place, [], None
        self.changed = threading.Condition()
        self.turn = threading.Event()
        self.ended = threading.Thread(target=self._run, daemon=True)
        self.ended.start()

    def _run(self):
        try:
            for sentence in self.place.turn():
                with self.changed:
                    self.said.append(sentence)
                    self.changed.notify_all()
            self.turn.set()
        except PeerUnavailableError as error:
            self.error = error

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
        assert len(set(waiter.said)) == len(waiter.said)


def test_the_wait_is_estimated_from_the_median_of_recent_evaluations(clock):
    queue = make(clock)
    for seconds in (10.0, 10.0, 500.0):  # one large image does not spoil the estimate
        evaluate(queue, clock, seconds)
    holder = take(queue)
    clock.now += 4.0
    first, second = Waiter(queue.enter()), None
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
        list(place.turn())
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
        list(place.turn())


def test_draining_keeps_the_turn_drops_who_waits_and_lets_nobody_in(clock):
    queue = make(clock)
    holder = take(queue)
    dropped = []
    place = queue.enter(lambda: dropped.append("waiting"))
    waiter = Waiter(place)
    waiter.says("waiting: 1 ahead")
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
    assert not queue.busy


@given(st.lists(st.sampled_from(["enter", "turn", "leave"]), max_size=60), st.integers(0, 4))
def test_never_more_places_than_capacity_and_never_two_turns(actions, waiting):
    queue = make(Clock(), waiting)
    places, holder = [], None
    for action in actions:
        if action == "enter":
            if len(places) == queue.capacity:
                pytest.raises(BusyError, queue.enter)
            else:
                places.append(queue.enter())
        elif action == "turn" and holder is None and places:
            holder = places[0]
            assert list(holder.turn()) == []
        elif action == "leave" and places:
            place = places.pop(0)
            place.leave(done=place is holder)
            holder = None if place is holder else holder
        assert queue.busy == (holder is not None)
        assert queue.waiting == len(places) - queue.busy
