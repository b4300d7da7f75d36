"""An image of several tiles: put together in place, the next one's material coming while one is evaluated, flagged ones last.

And of one tile: prepared while another session is evaluated.
"""

import threading
from collections.abc import Generator, Sequence

import pytest
import torch

from proto import darkroom_pb2 as pb
from protocols import ring
from protocols.engines import MASKED
from protocols.errors import PeerUnavailableError, RemoteProtocolError
from protocols.identifiers import PushId, Role
from protocols.tiles import Tile
from server import evaluation
from server.outcome import MAX_REPEATS, Outcome, assembled
from tests.server.joined_servers import SECONDS, Site

PUSH = PushId("a" * 32)
# Three windows of 8x8 over an image of 8x20, which overlap by four columns
TILES = [Tile(0, 0, 8, 8, 0, 0, 8, 6), Tile(0, 4, 8, 12, 0, 6, 8, 8), Tile(0, 12, 8, 8, 0, 14, 8, 6)]

PEAKS, NURSERY_PEAK = [100, 50, 70], 1000  # bytes, of each tile's worker


class FakeEvaluation:
    """Gives the window of an image, or a flag."""

    def __init__(self, events: list[str], image: torch.Tensor, number: int, flagged: bool, fails: bool = False) -> None:
        self._events, self._image, self._number, self._flagged, self._fails = events, image, number, flagged, fails
        events.append(f"begin {number}")

    def get_ready(self, waited_since: float) -> None:
        self._events.append(f"ready {self._number}")

    def finish(self) -> Generator[str, None, Outcome]:
        self._events.append(f"finish {self._number}")
        yield "evaluating"
        if self._fails:
            raise PeerUnavailableError("on purpose")
        tile = TILES[self._number]
        window = self._image[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        share = b"" if self._flagged else ring.to_bytes(window.contiguous())
        stats = pb.WorkerStats(flags=int(self._flagged), sent_bytes=10, peak_rss_bytes=PEAKS[self._number])
        return Outcome(share, stats, MASKED, 1.0, 5, 7, PUSH, tuple(window.shape), NURSERY_PEAK, memory_bytes=0)

    def stop(self) -> None:
        self._events.append(f"stop {self._number}")


class Case:
    """Runs `assembled`; flags: how often each tile is flagged first."""

    def __init__(self, flags: dict[int, int] | None = None, failing: int | None = None) -> None:
        self.events: list[str] = []
        self.image = torch.arange(8 * 20, dtype=torch.int64).view(1, 8, 20) * (1 << 40)
        self._flags, self._failing = dict(flags or {}), failing
        self.waits, self.before = 0, []  # what the first waits yield

    def begin(self, number: int, ahead: bool) -> Generator[str, None, FakeEvaluation]:
        if not ahead:
            yield "dealing"
        flagged = self._flags.get(number, 0) > 0
        self._flags[number] = self._flags.get(number, 0) - 1
        return FakeEvaluation(self.events, self.image, number, flagged, number == self._failing)

    def wait(self) -> Generator[str]:
        """For the session before: there is none, and `waits` counts."""
        self.waits += 1
        yield from self.before.pop(0) if self.before else ()

    def run(self, tiles: Sequence[Tile] = TILES) -> tuple[list[str], Outcome]:
        stages, steps = [], assembled(tiles, self.begin, self.wait)
        while True:
            try:
                stages.append(next(steps))
            except StopIteration as end:
                return stages, end.value


def test_tiles_are_put_in_their_places() -> None:
    case = Case()
    stages, outcome = case.run()
    assert outcome.shape == (1, 8, 20)
    assert torch.equal(ring.from_bytes(outcome.share, outcome.shape), case.image)
    assert (outcome.flags, outcome.stats.sent_bytes, outcome.dealt_bytes, outcome.offline_seconds) == (0, 30, 15, 3.0)
    assert stages == ["dealing", "tile 1 of 3", "evaluating", "tile 2 of 3", "evaluating", "tile 3 of 3", "evaluating"]


def test_the_next_tile_is_begun_when_one_is_ready_and_before_it_is_evaluated() -> None:
    case = Case()
    case.run()
    assert case.events == [
        *("begin 0", "ready 0", "begin 1", "finish 0"),
        *("ready 1", "begin 2", "finish 1"),
        *("ready 2", "finish 2"),
    ]


def test_the_peak_is_that_of_the_nursery_and_of_the_workers_that_live_at_once() -> None:
    assert Case().run()[1].peak_rss_bytes == 1000 + 100 + 50
    assert Case(flags={0: 1}).run()[1].peak_rss_bytes == 1000 + 70 + 100  # the third tile's, and the first's second one
    assert Case(flags={2: 1}).run()[1].peak_rss_bytes == 1000 + 100 + 50  # after the third's first worker its second, alone


def test_workers_that_follow_each_other_are_not_added_up() -> None:
    single = Case(flags={0: 2})
    assert single.run(TILES[:1])[1].peak_rss_bytes == 1000 + 100


def test_a_flagged_tile_is_repeated_last_and_the_picture_is_whole() -> None:
    case = Case(flags={0: 1, 2: 2})
    stages, outcome = case.run()
    assert torch.equal(ring.from_bytes(outcome.share, outcome.shape), case.image)
    assert outcome.flags == 3
    finished = [event for event in case.events if event.startswith("finish")]
    assert finished == [f"finish {number}" for number in (0, 1, 2, 0, 2, 2)]
    assert stages.count("repeating: a truncation was flagged") == 3


def test_each_tile_has_its_own_repeats_and_what_was_begun_is_stopped() -> None:
    case = Case(flags={0: MAX_REPEATS, 1: MAX_REPEATS + 1})
    with pytest.raises(RemoteProtocolError, match="flagged in 4 evaluations in a row"):
        case.run()
    case = Case(flags={number: MAX_REPEATS for number in range(3)})
    assert case.run()[1].flags == 3 * MAX_REPEATS


def test_a_failure_stops_what_was_begun() -> None:
    case = Case(failing=0)
    with pytest.raises(PeerUnavailableError):
        case.run()
    assert case.events == ["begin 0", "ready 0", "begin 1", "finish 0", "stop 0", "stop 1"]


def test_an_edge_that_leaves_stops_what_was_begun() -> None:
    case = Case()
    steps = assembled(TILES, case.begin, case.wait)
    while next(steps) != "evaluating":
        pass
    steps.close()
    assert case.events == ["begin 0", "ready 0", "begin 1", "finish 0", "stop 0", "stop 1"]


def test_a_session_waits_for_the_one_before_when_its_material_is_here_and_before_it_is_evaluated() -> None:
    case = Case(flags={0: 1})
    case.before = [["waiting: 1 ahead"]]
    stages, _ = case.run(TILES[:1])
    assert stages[:3] == ["dealing", "waiting: 1 ahead", "evaluating"]
    assert case.waits == 2  # a repetition too, which then has nothing to wait for
    assert case.events == ["begin 0", "ready 0", "finish 0"] * 2


def test_a_session_that_ends_while_it_waits_for_the_one_before_gives_its_worker_back() -> None:
    case = Case()
    case.before = [["waiting: 1 ahead"]]
    steps = assembled(TILES[:1], case.begin, case.wait)
    while next(steps) != "waiting: 1 ahead":
        pass
    steps.close()
    assert case.events == ["begin 0", "ready 0", "stop 0"]


@pytest.fixture
def tiled(tmp_path, monkeypatch) -> Site:
    """Two servers whose image is cut into four windows of 8x8."""
    tiles = [Tile(0, 8 * number, 8, 8, 0, 8 * number, 8, 8) for number in range(4)]
    monkeypatch.setattr(evaluation, "image_tiles", lambda *_: tiles)
    site, request = Site(tmp_path, MASKED), Site.request
    share = bytes(8 * 8 * 8)  # of each window: what a fake worker gives back
    monkeypatch.setattr(Site, "request", lambda *args, **changes: request(*args, image_share=lambda: share, **changes))
    return site


def test_material_of_the_next_tile_reaches_a_worker_while_one_is_evaluated(tiled) -> None:
    seen = []

    def at(role, stage, abort):
        if stage == "evaluating" and len(seen) < 2:
            seen.append(all(tiled.workers[role].arrivals.acquire(timeout=SECONDS) for _ in range(2)))

    a, b, _ = tiled.session(1, during=at)
    assert seen == [True, True]
    assert a.shape == b.shape == (1, 8, 32)
    assert tiled.materials[Role.A] == tiled.materials[Role.B]
    assert len(set(tiled.materials[Role.A])) == 4
    keys = [[job.peer_key for job in tiled.workers[role].jobs] for role in Role]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 4
    assert [job.window.left for job in tiled.workers[Role.A].jobs] == [0, 8, 16, 24]


@pytest.mark.parametrize("role", Role)
def test_no_worker_is_left_of_tiles_when_one_dies(tiled, role) -> None:
    tiled.workers[role].behaviour[role, 0] = "dies"
    for result in tiled.session(1)[:2]:
        assert isinstance(result, PeerUnavailableError)
    tiled.workers[role].behaviour.clear()
    assert [outcome.flags for outcome in tiled.session(2)[:2]] == [0, 0]


@pytest.mark.parametrize("role", Role)
def test_no_worker_is_left_of_tiles_when_the_edge_leaves(tiled, role) -> None:
    def leave(at, stage, abort):
        if at is role and stage == "tile 2 of 4":
            abort()

    for result in tiled.session(1, during=leave)[:2]:
        assert isinstance(result, PeerUnavailableError)


@pytest.mark.parametrize("role", Role)
def test_a_dealer_that_falls_silent_at_the_second_tile_ends_the_session_when_the_edge_leaves(tiled, role) -> None:
    def silence(at, stage, abort):
        if at is role and stage == "dealing":
            claim = tiled.dealers[role].claim_material

            def second(*args, **kwargs):
                tiled.dealers[role].silent = bool(tiled.materials[role])
                return claim(*args, **kwargs)

            tiled.dealers[role].claim_material = second
        if at is role and stage == "evaluating":  # the first tile goes on; the session then waits for the second's material
            threading.Timer(0.1, abort).start()

    for result in tiled.session(1, during=silence)[:2]:
        assert isinstance(result, PeerUnavailableError)


def test_flagged_tiles_are_repeated_by_both_servers_in_one_order(tiled) -> None:
    for role in Role:
        tiled.workers[role].behaviour[role, "flags"] = [1, 0, 1]
    a, b, _ = tiled.session(1)
    assert (a.flags, b.flags) == (2, 2)
    assert tiled.materials[Role.A] == tiled.materials[Role.B]
    assert [job.window.left for job in tiled.workers[Role.B].jobs] == [0, 8, 16, 24, 0, 16]
