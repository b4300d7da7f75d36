"""Sessions of two servers joined in memory: what is relayed, what is refused, what is used once, and what a failure leaves.

The dealer's ledger, the channels and the evaluators are real; workers are fake and certificates are absent.
"""

import threading
from dataclasses import dataclass, field

import pytest
import torch

from dealer.ledger import DealingLedger
from proto import darkroom_pb2 as pb
from protocols import dealing, ring
from protocols.engines import CRYPTEN, ENGINES, session_plan
from protocols.errors import (
    BadInputError,
    LocalProtocolError,
    MaterialReusedError,
    PeerUnavailableError,
    RemoteProtocolError,
)
from protocols.identifiers import MaterialId, PushId, Role
from protocols.network import IMAGE_WIRE, Conv, Gate, Network
from protocols.plan import plan_for
from server import evaluation
from server.dealer_client import Batch, Boots
from server.evaluation import (
    Abort,
    EvaluationRequest,
    Evaluator,
)
from server.models import ModelRegistry
from server.peer_channel import PeerChannel
from server.pipe import Kind
from server.relays import expect, opening_chunks, relay_corrections, relay_openings
from server.share_store import ShareStore
from server.turns import TurnQueue
from tests.server.fake_workers import FakeWorkers, memory_pipes
from tests.server.test_models import upload
from tests.server.test_peer_channel import joined

NETWORK = Network((Conv("c", IMAGE_WIRE, 2, 3, padding=1), Gate("g", "c")))
PLAN = plan_for(NETWORK, 8, 9)
SECONDS = 20


# --- openings from the peer ---


def pieces(*parts, total=24, label=3):
    """The peer's messages: (offset, bytes) of one opening, or whole openings."""
    channel = PeerChannel(Role.A)
    messages = [part if isinstance(part, pb.PeerMessage) else piece(*part, total=total, label=label) for part in parts]
    channel.attach(iter(messages))
    return channel


def piece(offset, chunk, *, total=24, label=3):
    return pb.PeerMessage(opening=pb.Opening(label=label, offset=offset, total_bytes=total, chunk=chunk))


def read(channel):
    return b"".join(chunk for _, _, chunk in opening_chunks(channel, 3, 24))


@pytest.mark.parametrize("cuts", [[24], [8, 16], [1, 22, 1]])
def test_an_opening_comes_in_any_pieces(cuts):
    content, parts, offset = bytes(range(24)), [], 0
    for length in cuts:
        parts.append((offset, content[offset : offset + length]))
        offset += length
    assert read(pieces(*parts, (0, b"the next"))) == content


BROKEN = {
    "a gap": [(0, bytes(8)), (16, bytes(8))],
    "a repeat": [(0, bytes(8)), (0, bytes(8))],
    "an overlap": [(0, bytes(8)), (7, bytes(8))],
    "not from the start": [(8, bytes(16))],
    "a piece too long": [(0, bytes(25))],
    "a last piece too long": [(0, bytes(16)), (16, bytes(9))],
    "an empty piece": [(0, b"")],
    "another total": [piece(0, bytes(24), total=32)],
    "a total that changes": [(0, bytes(8)), piece(8, bytes(16), total=25)],
    "another label": [piece(0, bytes(24), label=4)],
    "an earlier label": [piece(0, bytes(24), label=2)],
    "a label that changes": [(0, bytes(8)), piece(8, bytes(16), label=4)],
    "another kind of message": [pb.PeerMessage(ready=pb.PeerReady())],
    "an empty message": [pb.PeerMessage()],
}


@pytest.mark.parametrize("name", BROKEN)
def test_openings_that_are_not_as_planned_are_refused(name):
    with pytest.raises(RemoteProtocolError):
        read(pieces(*BROKEN[name]))


def test_an_opening_that_ends_early_is_a_broken_link():
    with pytest.raises(PeerUnavailableError, match="ended the link"):
        read(pieces((0, bytes(8))))


# --- corrections from the dealer ---


def correction(label, offset, chunk, total=16):
    return pb.Correction(label=label, offset=offset, total_bytes=total, chunk=chunk)


def relayed(corrections, due=(16, 8)):
    ours, theirs = memory_pipes()
    relay_corrections(iter(corrections), ours, due)
    ours.close()
    frames = []
    while (header := theirs.receive_header()) is not None:
        frames.append((header.kind, header.label, bytes(theirs.receive_bytes(header.length))))
    return frames


def test_corrections_are_passed_on():
    first, second = bytes(range(16)), bytes(8)
    assert relayed([correction(0, 0, first[:9]), correction(0, 9, first[9:]), correction(1, 0, second, 8)]) == [
        (Kind.CORRECTION, 0, first),
        (Kind.CORRECTION, 1, second),
    ]
    assert relayed([], due=()) == []


WHOLE = [correction(0, 0, bytes(16)), correction(1, 0, bytes(8), 8)]
BAD_CORRECTIONS = {
    "none": [],
    "one too few": WHOLE[:1],
    "one too many": [*WHOLE, correction(2, 0, bytes(8), 8)],
    "in another order": WHOLE[::-1],
    "the same twice": [WHOLE[0], WHOLE[0]],
    "a gap": [correction(0, 0, bytes(8)), correction(0, 9, bytes(7))],
    "a repeat": [correction(0, 0, bytes(8)), correction(0, 0, bytes(8))],
    "an end inside": [WHOLE[0], correction(1, 0, bytes(7), 8)],
    "a piece too long": [correction(0, 0, bytes(17))],
    "an empty piece": [correction(0, 0, b"")],
    "another length": [correction(0, 0, bytes(8), 8)],
    "a label that changes": [correction(0, 0, bytes(8)), correction(1, 8, bytes(8))],
}


@pytest.mark.parametrize("name", BAD_CORRECTIONS)
def test_corrections_that_are_not_as_planned_are_refused(name):
    with pytest.raises(RemoteProtocolError, match="correction"):
        relayed(BAD_CORRECTIONS[name])


def test_server_a_is_dealt_no_corrections():
    with pytest.raises(RemoteProtocolError, match="correction 0"):
        relayed(WHOLE, due=())


# --- openings between worker and peer ---


@dataclass
class Relay:
    """`relay_openings` in a thread; the test plays the worker and the peer."""

    def __post_init__(self):
        ours, self.worker = memory_pipes()
        self.pipe = ours
        channel, self.peer = joined()
        self.outcome = []
        self._thread = threading.Thread(target=self._run, args=(ours, channel), daemon=True)
        self._thread.start()

    def _run(self, pipe, channel):
        try:
            self.outcome.append(relay_openings(pipe, channel, PLAN))
        except Exception as error:
            self.outcome.append(error)

    def open_all(self):
        for label in range(len(PLAN.correlations)):
            words = PLAN.opened_words(label) * 8
            self.worker.send(Kind.OPENING, bytes([label]) * words, label)
            self.peer.send(piece(0, bytes([7 + label]) * words, label=label, total=words))

    def result(self):
        self._thread.join(SECONDS)
        return self.outcome[0]


def test_openings_go_both_ways_and_the_result_comes_back():
    relay = Relay()
    relay.open_all()
    relay.worker.send(Kind.STATS, pb.WorkerStats(rounds=2).SerializeToString())
    relay.worker.send(Kind.RESULT, b"share")
    stats, share = relay.result()
    assert (stats.rounds, share) == (2, b"share")
    for label in range(2):
        sent = relay.peer.expect("opening").opening
        words = PLAN.opened_words(label) * 8
        assert (sent.label, sent.offset, sent.total_bytes, sent.chunk) == (label, 0, words, bytes([label]) * words)
        header = relay.worker.receive_header()
        assert (header.kind, header.label) == (Kind.OPENING, label)
        assert relay.worker.receive_bytes(header.length) == bytes([7 + label]) * words


def test_a_worker_that_says_why_it_failed():
    relay = Relay()
    relay.worker.send(Kind.FAILED, b"MaterialReusedError: twice")
    assert isinstance(relay.result(), RemoteProtocolError)
    assert "the evaluation failed: MaterialReusedError: twice" in str(relay.result())


def test_a_worker_that_ends():
    relay = Relay()
    relay.worker.close()
    assert isinstance(relay.result(), PeerUnavailableError)


def test_a_peer_that_breaks_the_rules_stops_the_worker():
    relay = Relay()
    relay.peer.send(piece(0, bytes(8), label=1, total=8))
    assert isinstance(relay.result(), RemoteProtocolError)
    assert "where bytes 0.. of 576 of opening 0 were due" in str(relay.result())
    assert relay.worker.receive_header() is None


def test_a_peer_that_leaves_stops_the_worker():
    relay = Relay()
    relay.peer.close()
    assert isinstance(relay.result(), PeerUnavailableError)
    assert relay.worker.receive_header() is None


def test_a_frame_that_is_not_due():
    ours, theirs = memory_pipes()
    theirs.send(Kind.GO)
    with pytest.raises(LocalProtocolError, match="the worker sent GO where READY was due"):
        expect(ours, Kind.READY)
    theirs.close()
    with pytest.raises(PeerUnavailableError, match="the worker process ended"):
        expect(ours, Kind.READY)


# --- whole sessions ---


class LedgerDealer:
    """The dealer as one server calls it, on a ledger that both share."""

    def __init__(self, role, ledger):
        self.role, self.ledger = role, ledger
        self.named = []  # material to name in place of fresh material

    def open_push(self, network, boots):
        return self.named.pop(0) if self.named else self.ledger[0].open_push(network, (boots.a, boots.b))

    def claim_push(self, push, network, boots):
        entry = self.ledger[0].claim_push(self.role, push, (boots.a, boots.b), network.digest)
        return dealing.push_seed(entry.key, self.role, push, network.digest)

    def open_material(self, push, plan, boots):
        material = self.ledger[0].open_batch(push, plan.height, plan.width, (boots.a, boots.b), plan.engine)
        return self.named.pop(0) if self.named else material

    def claim_material(self, material, push, plan, boots):
        batch = self.ledger[0].claim_batch(self.role, material, push, plan.digest, (boots.a, boots.b))
        seeds = {role: dealing.session_seed(batch.key, role, material, batch.context) for role in Role}
        corrections = self._corrections(plan) if self.role is Role.B else iter(())
        return Batch(seeds[self.role], corrections, lambda: None)

    def _corrections(self, plan):
        for index, total in enumerate(plan.correction_sizes):  # fake workers do not look at them
            yield pb.Correction(label=index, offset=0, total_bytes=total, chunk=bytes(total))


@dataclass
class Site:
    """Two servers and a dealer in one process."""

    folder: object
    engine: str = CRYPTEN
    ledger: list = field(default_factory=lambda: [DealingLedger()])  # replaced when the dealer restarts

    def __post_init__(self):
        self.registries, self.dealers, self.workers, self.evaluators, self.turns = {}, {}, {}, {}, {}
        for role in Role:
            self.start(role)
        upload(self.registries, NETWORK)

    def start(self, role):
        """Start or restart a server: what was in memory is gone."""
        self.registries[role] = ModelRegistry(ShareStore(self.folder / role.value), role)
        self.dealers[role] = LedgerDealer(role, self.ledger)
        self.workers[role] = FakeWorkers()
        self.turns[role] = TurnQueue(f"server {role.value}", 8)
        self.evaluators[role] = Evaluator(role, self.registries[role], self.dealers[role], self.workers[role])

    def restart_dealer(self):
        self.ledger[0] = DealingLedger()

    def request(self, role, number, **changes):
        share = bytes(32) if role is Role.A else ring.to_bytes(torch.zeros(1, 8, 9, dtype=torch.int64))
        values = {
            "session_id": f"{number:032x}",
            "object_id": "0" * 32,
            "model": "base",
            "stored": pb.StoreHeader(size=pb.Size(height=8, width=9), packing=pb.PACKING_BLIND),
            "image_share": lambda: share,
            "noise_key": b"",
            "sigma_share": 0,
            "engine": self.engine,
        }
        return EvaluationRequest(**(values | changes))

    def session(self, number=1, *, during=lambda role, stage, abort: None, **changes):
        """Both servers evaluate; their outcomes or errors. changes: of B's request."""
        channels = dict(zip(Role, joined(), strict=True))
        results, stages = {}, {role: [] for role in Role}

        def run(role):
            channel, abort = channels[role], Abort()
            abort.watch_channel(channel)
            evaluator = self.evaluators[role]
            request = self.request(role, number, **(changes if role is Role.B else {}))
            try:
                with self.turns[role].enter() as place:
                    if role is Role.A:
                        assert list(place.turn()) == []
                        steps = evaluator.lead(channel, str(self.evaluators[Role.B].boot_id), request, abort)
                    else:
                        steps = evaluator.follow(channel, request, abort, place)
                    results[role] = self._drain(steps, role, abort, stages, during)
            except Exception as error:
                results[role] = error
            finally:
                channel.close()

        threads = [threading.Thread(target=run, args=(role,), daemon=True) for role in Role]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a server hangs"
        assert not any(turns.busy or turns.waiting for turns in self.turns.values())
        assert all(worker.stopped for workers in self.workers.values() for worker in workers.taken)
        return results[Role.A], results[Role.B], stages

    def _drain(self, steps, role, abort, stages, during):
        while True:
            try:
                stage = next(steps)
            except StopIteration as end:
                return end.value
            stages[role].append(stage)
            during(role, stage, abort)

    @property
    def materials(self):
        """Material ids of all jobs that reached a worker, by server."""
        return {role: [name for _, name in workers.log] for role, workers in self.workers.items()}


@pytest.fixture(params=ENGINES)
def site(tmp_path, request):
    return Site(tmp_path, request.param)


def test_the_first_session_masks_the_model_and_the_second_does_not(site):
    a, b, stages = site.session(1)
    assert a.share == bytes(32)
    assert a.push_id == b.push_id
    assert a.shape == (1, 8, 9)
    assert stages[Role.A] == ["masking the model", "dealing", "evaluating"]
    assert stages[Role.B] == ["waiting for server A", "dealing", "evaluating"]
    again, _, stages = site.session(2)
    assert again.push_id == a.push_id
    assert stages[Role.A] == ["dealing", "evaluating"]
    assert site.materials[Role.A] == site.materials[Role.B]
    assert len(set(site.materials[Role.A])) == 2


@pytest.mark.parametrize("role", Role)
def test_after_a_restart_of_a_server_the_model_is_masked_anew(site, role):
    first, _, _ = site.session(1)
    site.start(role)
    second, other, stages = site.session(2)
    assert second.push_id == other.push_id != first.push_id
    assert stages[Role.A][0] == "masking the model"


def test_after_a_restart_of_the_dealer_the_model_is_masked_anew(site):
    first, _, _ = site.session(1)
    site.restart_dealer()
    second, other, _ = site.session(2)
    assert second.push_id == other.push_id != first.push_id


def test_old_material_is_refused_after_a_crash(site):
    """The server has lost its ledger; its new boot id matches nothing that was dealt before."""
    masked, _, _ = site.session(1)
    old = Boots(*(str(site.evaluators[role].boot_id) for role in Role))
    plan = session_plan(site.engine, NETWORK, 8, 9)
    material = site.dealers[Role.A].open_material(masked.push_id, plan, old)
    site.start(Role.A)
    new = Boots(str(site.evaluators[Role.A].boot_id), old.b)
    with pytest.raises(RemoteProtocolError, match="another push, plan or run"):
        site.dealers[Role.A].claim_material(material, masked.push_id, plan, new)
    with pytest.raises(RemoteProtocolError, match="other servers' runs"):
        site.dealers[Role.A].claim_push(masked.push_id, NETWORK, new)


def test_material_that_is_named_twice_reaches_no_worker(site):
    site.session(1)
    used = MaterialId(site.materials[Role.A][0])
    site.dealers[Role.A].named = [used]
    a, b, _ = site.session(2)
    assert isinstance(a, MaterialReusedError)
    assert isinstance(b, MaterialReusedError)
    assert f"MaterialId {used} was used in an earlier session" in str(b)
    assert site.materials == {Role.A: [str(used)], Role.B: [str(used)]}


def test_a_push_that_is_named_twice_is_not_opened_again(site):
    first, _, _ = site.session(1)
    for registry in site.registries.values():
        registry.forget("base")
    site.dealers[Role.A].named = [first.push_id]
    a, b, _ = site.session(2)
    assert isinstance(a, MaterialReusedError)
    assert isinstance(b, MaterialReusedError)
    assert f"PushId {first.push_id} was used" in str(b)


def test_a_masking_that_reached_one_side_only_heals(site):
    """B lost its half of the push (the link broke before A's opening arrived): one session fails, the next masks anew."""
    first, _, _ = site.session(1)
    site.registries[Role.B].forget("base")
    a, b, _ = site.session(2)
    assert isinstance(a, PeerUnavailableError)
    assert isinstance(b, RemoteProtocolError)
    assert "which this server does not hold" in str(b)
    third, other, _ = site.session(3)
    assert third.push_id == other.push_id != first.push_id


@pytest.mark.parametrize("change", [{"object_id": "1" * 32}, {"session_id": "f" * 32}], ids=["object", "session"])
def test_servers_asked_for_different_things_open_nothing(site, change):
    site.session(1)
    a, b, _ = site.session(2, **change)
    assert isinstance(a, PeerUnavailableError)
    assert isinstance(b, RemoteProtocolError)
    assert f"disagree on {next(iter(change))}" in str(b)
    assert len(site.materials[Role.B]) == 1


def test_servers_asked_for_different_engines_open_nothing(site):
    site.session(1)
    _, b, _ = site.session(2, engine=next(engine for engine in ENGINES if engine != site.engine))
    assert isinstance(b, RemoteProtocolError)
    assert "disagree on plan_digest" in str(b)
    assert len(site.materials[Role.B]) == 1


def test_the_outcome_names_the_engine_and_the_network_chooses_it_without_a_wish(site):
    assert {outcome.engine for outcome in site.session(1)[:2]} == {site.engine}
    site.engine = ""
    assert {outcome.engine for outcome in site.session(2)[:2]} == {"masked"}


def test_masking_is_bound_to_the_session_too(site):
    """The first session of two servers is a masking order; it names the session like any other."""
    _, b, _ = site.session(1, session_id="f" * 32)
    assert "disagree on session_id" in str(b)
    assert site.registries[Role.B].last_push("base") == ""


def test_servers_with_different_uploads_open_nothing(site):
    site.session(1)
    upload({Role.B: site.registries[Role.B]}, NETWORK, session="7" * 32)
    _, b, _ = site.session(2)
    assert "disagree on upload_id" in str(b)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("how", ["dies", "fails"])
@pytest.mark.parametrize("opening", [0, 1])
def test_a_worker_that_fails_ends_the_session_on_both_sides_and_not_the_next(site, role, how, opening):
    site.session(1)
    site.workers[role].behaviour[role, opening] = how
    failed = dict(zip(Role, site.session(2)[:2], strict=True))
    assert isinstance(failed[role], RemoteProtocolError if how == "fails" else PeerUnavailableError)
    assert isinstance(failed[role.peer], PeerUnavailableError)
    site.workers[role].behaviour.clear()
    a, b, _ = site.session(3)
    assert a.push_id == b.push_id
    assert len(set(site.materials[Role.A])) == 3  # what the failure burnt is not used again


@pytest.mark.parametrize("role", Role)
def test_an_edge_that_leaves_in_the_middle_ends_the_session_on_both_sides(site, role):
    site.workers[role.peer].behaviour[role.peer, 1] = "hangs"

    def leave(at, stage, abort):
        if at is role and stage == "evaluating":
            threading.Timer(0.1, abort).start()

    for result in site.session(1, during=leave)[:2]:
        assert isinstance(result, PeerUnavailableError)
    site.workers[role.peer].behaviour.clear()
    a, b, _ = site.session(2)
    assert a.push_id == b.push_id


@pytest.mark.parametrize("role", Role)
def test_an_edge_that_leaves_while_a_worker_computes_does_not_wait_for_it(site, role):
    """No message is due then, so the worker's pipe itself must wake the session."""
    site.workers[role].behaviour[role, "ready"] = "hangs"

    def leave(at, stage, abort):
        if at is role and stage == "dealing":
            threading.Timer(0.1, abort).start()

    for result in site.session(1, during=leave)[:2]:
        assert isinstance(result, PeerUnavailableError)


def test_an_edge_that_has_left_before_the_worker_started(site):
    def leave(at, stage, abort):
        if at is Role.B and stage == "dealing":
            abort()

    a, b, _ = site.session(1, during=leave)
    assert isinstance(a, PeerUnavailableError)
    assert isinstance(b, PeerUnavailableError)
    assert site.materials[Role.B] == []


def test_an_image_that_needs_too_much_material_is_refused_before_anything_is_dealt(site, monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_MATERIAL_BYTES", 100)
    a, b, _ = site.session(1)
    for result in (a, b):
        assert isinstance(result, BadInputError | PeerUnavailableError)
    assert "cut the image into tiles" in str(a)
    assert not site.ledger[0]._pushes


def test_secrets_of_a_session_are_not_printed(site):
    request = site.request(Role.A, 1, noise_key=b"k" * 32, image_share=lambda: b"s" * 32, sigma_share=123456789)
    outcome = site.session(1)[0]
    for text in (repr(request), repr(outcome), repr(Batch(b"s" * 32, iter(()), lambda: None))):
        assert "kkkk" not in text
        assert "ssss" not in text
        assert "123456789" not in text
        assert "\\x00" not in text


def test_identifiers_of_two_kinds_do_not_shadow_each_other(site):
    evaluator = site.evaluators[Role.A]
    evaluator._use(PushId("a" * 32))
    evaluator._use(MaterialId("a" * 32))
    with pytest.raises(MaterialReusedError):
        evaluator._use(PushId("a" * 32))
