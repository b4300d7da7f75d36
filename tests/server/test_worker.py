"""The worker around the engine: what it takes from the job, what it refuses, and the order of what it sends."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proto import darkroom_pb2 as pb
from protocols import dealing, ring, sharing
from protocols.dealing import PartyMaterial, weight_mask_share
from protocols.engines import CRYPTEN
from protocols.errors import EncodingRangeError, LocalProtocolError, RemoteProtocolError
from protocols.identifiers import MaterialId, Role
from protocols.layers import Conv, Gate
from protocols.network import IMAGE_WIRE, Network
from protocols.packing import NoiseKeys, PackingMode, pack
from protocols.plan import masked_weights, plan_for
from protocols.prg import derive_key
from server import crypten_engine, crypten_runtime, worker
from server.exchange import Sender
from server.pipe import Kind, Pipe
from server.worker import CrypTenJob, rerandomise, shared_model, unpacked_share, window_of
from tests.protocols.every_layer import EVERY_LAYER
from tests.protocols.test_sharing import ERROR_RATE, uniformity_p_value
from tests.server.fake_workers import MemorySocket, NarrowSocket, memory_pipes

NETWORK = Network((Conv("c", IMAGE_WIRE, 2, 3, padding=1), Gate("g", "c")))
PLAN = plan_for(NETWORK, 8, 9)
KEY, OTHER_KEY = bytes(range(32)), bytes(32)
SECONDS = 20


# --- re-randomisation ---


@given(shares=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=9))
@settings(max_examples=50, deadline=None, database=None)
def test_rerandomised_shares_share_the_same_words(shares):
    a, b = (torch.tensor(column) for column in zip(*shares, strict=True))
    assert torch.equal(rerandomise(Role.A, a, KEY) + rerandomise(Role.B, b, KEY), a + b)


def test_rerandomised_shares_are_uniform_and_depend_on_the_key():
    """Chi-square at 1e-6 over 40,000 words each, fixed keys. Of a share that is known: zero."""
    zeros = torch.zeros(1, 200, 200, dtype=torch.int64)
    first, second = rerandomise(Role.A, zeros, KEY), rerandomise(Role.A, zeros, OTHER_KEY)
    for words in (first, second, first - second):
        assert uniformity_p_value(words) > ERROR_RATE


def test_the_streams_of_output_and_zero_sharings_are_apart():
    """Both come from the key of A and B; the zero sharings' streams pass through the evaluation."""
    zeros = torch.zeros(64, dtype=torch.int64)
    output = rerandomise(Role.A, zeros, KEY)
    zero_key = derive_key(KEY, b"zero")
    for label in (b"zero/first", b"zero/second"):
        stream = crypten_runtime.StreamGenerator(derive_key(zero_key, label)).words((64,))
        assert not set(stream.tolist()) & set(output.tolist())


# --- the job ---


def test_each_server_takes_its_own_noise_off_its_own_share():
    keys = NoiseKeys.derive(KEY, bytes(16))
    image = torch.arange(72).view(1, 8, 9) * 100
    for mode, number, sigma in ((PackingMode.KEYED, pb.PACKING_KEYED, 0.0), (PackingMode.GAUSSIAN, pb.PACKING_GAUSSIAN, 0.1)):
        pair = sharing.share(pack(image, keys, mode, sigma), seed=OTHER_KEY)
        shares = [
            unpacked_share(
                pb.WorkerJob(
                    size=pb.Size(height=8, width=9),
                    window=pb.Window(size=pb.Size(height=8, width=9)),
                    packing=number,
                    packing_sigma=sigma,
                    image_share=pair.seed if role is Role.A else ring.to_bytes(pair.words),
                    noise_key=keys.of(role),
                ),
                role,
            )
            for role in Role
        ]
        assert torch.equal(sum(shares), image)
        assert not torch.equal(shares[0], sharing.expand_seed(pair.seed, (1, 8, 9)))


def blind_job(**changes):
    size = pb.Size(height=8, width=9)
    whole = {"size": size, "window": pb.Window(size=size), "packing": pb.PACKING_BLIND, "image_share": bytes(72 * 8)}
    return pb.WorkerJob(**(whole | changes))


def test_blind_packing_stays():
    words = torch.arange(72).view(1, 8, 9)
    assert torch.equal(unpacked_share(blind_job(image_share=ring.to_bytes(words)), Role.B), words)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 0), (0, 5), (4, 11)])
def test_a_job_is_about_its_window(top, left):
    image = torch.arange(12 * 20).view(1, 12, 20)
    window = pb.Window(top=top, left=left, size=pb.Size(height=8, width=9))
    seen = window_of(blind_job(size=pb.Size(height=12, width=20), window=window), image)
    assert seen.shape == (1, 8, 9)
    assert (int(seen[0, 0, 0]), int(seen[0, -1, -1])) == (20 * top + left, 20 * (top + 7) + left + 8)
    assert torch.equal(seen, image[:, top : top + 8, left : left + 9])


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"packing": pb.PACKING_UNSPECIFIED}, RemoteProtocolError),
        ({"image_share": bytes(71 * 8)}, RemoteProtocolError),
        ({"packing": pb.PACKING_KEYED, "noise_key": b"short"}, LocalProtocolError),
        ({"packing": pb.PACKING_GAUSSIAN, "noise_key": KEY, "packing_sigma": float("nan")}, EncodingRangeError),
    ],
)
def test_jobs_that_cannot_be_unpacked(changes, kind):
    with pytest.raises(kind):
        unpacked_share(blind_job(**changes), Role.B)


def test_the_model_is_cut_in_plan_order():
    masked = masked_weights(EVERY_LAYER, 9, 13)
    deltas = {name: torch.full(shape, index) for index, (name, shape) in enumerate(masked.items())}
    biases = {
        name: torch.full(shape, -index)
        for index, (name, shape) in enumerate(EVERY_LAYER.parameter_shapes(9, 13).items())
        if name not in masked
    }
    job = pb.WorkerJob(
        size=pb.Size(height=9, width=13),
        window=pb.Window(size=pb.Size(height=9, width=13)),
        push_seed=KEY,
        deltas=b"".join(map(ring.to_bytes, deltas.values())),
        bias_shares=b"".join(map(ring.to_bytes, biases.values())),
    )
    model = shared_model(job, EVERY_LAYER)
    for position, (name, delta) in enumerate(deltas.items()):
        assert torch.equal(model.weights[name].delta, delta)
        assert torch.equal(model.weights[name].mask_share, weight_mask_share(KEY, position, tuple(delta.shape)))
    assert {name: bias.tolist() for name, bias in model.biases.items()} == {name: b.tolist() for name, b in biases.items()}
    assert "tensor" not in repr(model)
    job.deltas = job.deltas[:-8]
    with pytest.raises(RemoteProtocolError, match="expected .* ring words"):
        shared_model(job, EVERY_LAYER)


# --- material through the pipe ---


def corrected(monkeypatch, frames, role=Role.B):
    """A job of the CrypTen engine that has read these frames: its material."""
    monkeypatch.setattr(crypten_runtime, "import_crypten", lambda: None)
    ours, theirs = memory_pipes()
    for kind, label, length in frames:
        ours.send(kind, bytes(length), label)
    ours.close()
    job = pb.WorkerJob(material_seed=KEY, peer_key=KEY)
    return CrypTenJob(job, role, PLAN, shared_model(whole_job(), NETWORK), theirs)._material


DUE = [(Kind.CORRECTION, index, PLAN.correction_bytes(index)) for index in range(len(PLAN.correlations))]
NOT_AS_PLANNED = pytest.mark.parametrize(
    "frames",
    [
        [],
        DUE[:1],
        DUE[::-1],
        [DUE[0], DUE[0]],
        [(Kind.OPENING, 0, DUE[0][2])],
        [(Kind.CORRECTION, 0, DUE[0][2] - 8)],
        [(Kind.CORRECTION, 0, DUE[0][2] + 8)],
        [(Kind.GO, 0, 0)],
    ],
)


def test_b_takes_in_every_correction_and_a_none(monkeypatch):
    assert isinstance(corrected(monkeypatch, DUE), PartyMaterial)
    assert corrected(monkeypatch, [], Role.A).take(type(PLAN.correlations[0]))


@NOT_AS_PLANNED
def test_corrections_that_are_not_as_planned_are_refused(monkeypatch, frames):
    with pytest.raises(RemoteProtocolError, match="correction"):
        corrected(monkeypatch, frames)


# --- a whole job, with an engine that opens zeros ---


class ZeroEngine:
    """In place of the CrypTen engine: opens what the plan says, and returns zeros; or less, or fails."""

    openings = len(PLAN.correlations)
    error = None
    images = ()

    def __init__(self, opening, model):
        self._open = opening

    def run(self, image, sigma):
        type(self).images += (image,)
        for index in range(self.openings):
            self._open(index)
        if self.error is not None:
            raise self.error
        return torch.zeros(1, 8, 9, dtype=torch.int64)


@pytest.fixture
def zero_engine(monkeypatch):
    def start_evaluation(role, material, ledger, exchange, zero_key):
        def opening(index):
            words = PLAN.opened_words(index)
            ledger.sending(index, words)
            exchange(index, [torch.zeros(words, dtype=torch.int64)])
            ledger.accepting(index, words)

        return opening

    engine = type("Engine", (ZeroEngine,), {})
    monkeypatch.setattr(crypten_runtime, "import_crypten", lambda: None)
    monkeypatch.setattr(crypten_runtime, "start_evaluation", start_evaluation)
    monkeypatch.setattr(crypten_engine, "CrypTenEvaluation", engine)
    return engine


def whole_job(engine=CRYPTEN, role=Role.A):
    masked, shapes = masked_weights(NETWORK, 8, 9), NETWORK.parameter_shapes(8, 9)
    weights = sum(torch.Size(shape).numel() for shape in masked.values())
    return blind_job(
        role=role.value,
        engine=engine,
        network=NETWORK.to_json(),
        material_id="a" * 32,
        material_seed=KEY,
        push_seed=KEY,
        deltas=bytes(8 * weights),
        bias_shares=bytes(8 * sum(shape[0] for name, shape in shapes.items() if name not in masked)),
        image_share=KEY if role is Role.A else bytes(72 * 8),
        peer_key=KEY,
    )


def started(socket_type=MemorySocket, job=None):
    """A worker in a thread, with its job; the server's end of the pipe, and what the worker raised."""
    ours, theirs = socket_type.pair()
    server, errors = Pipe(ours), []

    def run():
        try:
            worker.evaluate(Pipe(theirs))
        except Exception as error:
            errors.append(error)
        theirs.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    server.send(Kind.JOB, (job or whole_job()).SerializeToString())
    return server, theirs, thread, errors


def answer(server, index):
    words = PLAN.opened_words(index)
    server.send(Kind.OPENING, bytes(8 * words), index)


def frames(server):
    while (header := server.receive_header()) is not None:
        yield header.kind, bytes(server.receive_bytes(header.length))


def test_a_job_from_start_to_end(zero_engine):
    server, _, thread, errors = started()
    assert next(frames(server)) == (Kind.READY, b"")
    server.send(Kind.GO)
    for index in range(len(PLAN.correlations)):
        answer(server, index)
    thread.join(SECONDS)
    sent = list(frames(server))
    assert errors == []
    assert [kind for kind, _ in sent] == [Kind.OPENING, Kind.OPENING, Kind.STATS, Kind.RESULT]
    stats = pb.WorkerStats.FromString(sent[2][1])
    assert sum(message.sent_bytes for message in stats.messages) == stats.sent_bytes == PLAN.sent_bytes
    expected = rerandomise(Role.A, torch.zeros(1, 8, 9, dtype=torch.int64), KEY)
    assert sent[3][1] == ring.to_bytes(expected)


def test_the_engine_gets_the_window_of_the_whole_image(zero_engine):
    """The share and the packing noise are the whole image's: a window of either alone would be other words."""
    job = whole_job()
    job.size.CopyFrom(pb.Size(height=12, width=20))
    job.window.top, job.window.left = 3, 7
    server, _, thread, errors = started(job=job)
    assert next(frames(server)) == (Kind.READY, b"")
    server.send(Kind.GO)
    for index in range(len(PLAN.correlations)):
        answer(server, index)
    thread.join(SECONDS)
    assert errors == []
    (image,) = zero_engine.images
    assert torch.equal(image, sharing.expand_seed(KEY, (1, 12, 20))[:, 3:11, 7:16])


def test_nothing_is_sent_before_the_last_opening_has_left(zero_engine, monkeypatch):
    """The peer's last opening is here, ours waits in the pipe: the worker must wait as well, and not send its result."""
    reached, sent_early = threading.Event(), []
    finish, send = Sender.finish, Pipe.send

    def watched_finish(sender):
        reached.set()
        finish(sender)

    def watched_send(pipe, kind, payload=b"", label=0):
        if kind is Kind.STATS and not theirs.gate.is_set():
            sent_early.append(kind)
            reached.set()
        send(pipe, kind, payload, label)

    monkeypatch.setattr(Sender, "finish", watched_finish)
    monkeypatch.setattr(Pipe, "send", watched_send)
    server, theirs, thread, errors = started(NarrowSocket)
    assert next(frames(server)) == (Kind.READY, b"")
    theirs.gate.clear()
    server.send(Kind.GO)
    for index in range(len(PLAN.correlations)):
        answer(server, index)
    assert reached.wait(SECONDS)
    assert sent_early == []
    theirs.gate.set()
    thread.join(SECONDS)
    assert [kind for kind, _ in frames(server)] == [Kind.OPENING, Kind.OPENING, Kind.STATS, Kind.RESULT]
    assert errors == []


def test_an_evaluation_that_opens_less_than_its_plan_releases_nothing(zero_engine):
    zero_engine.openings = 1
    server, _, thread, errors = started()
    server.send(Kind.GO)
    answer(server, 0)
    thread.join(SECONDS)
    assert "ended after 1 of 2 openings" in str(errors[0])
    assert [kind for kind, _ in frames(server)] == [Kind.READY, Kind.OPENING]


def test_an_evaluation_that_fails_releases_nothing(zero_engine):
    zero_engine.error = LocalProtocolError("on purpose")
    server, _, thread, errors = started()
    server.send(Kind.GO)
    for index in range(len(PLAN.correlations)):
        answer(server, index)
    thread.join(SECONDS)
    assert errors == [zero_engine.error]
    assert Kind.RESULT not in [kind for kind, _ in frames(server)]


def test_nothing_is_opened_before_both_are_ready(zero_engine):
    server, _, thread, errors = started()
    assert next(frames(server)) == (Kind.READY, b"")
    server.close()
    thread.join(SECONDS)
    assert "the other server did not get ready" in str(errors[0])


def test_a_server_that_stops_before_it_has_a_job(zero_engine):
    ours, theirs = memory_pipes()
    ours.close()
    worker.evaluate(theirs)


def test_a_frame_that_is_no_job(zero_engine):
    ours, theirs = memory_pipes()
    ours.send(Kind.GO)
    with pytest.raises(LocalProtocolError, match="expected a job, got GO"):
        worker.evaluate(theirs)


def test_what_is_computed_ahead_is_a_times_delta(zero_engine):
    """The fold is what makes an online convolution one product: checked against the whole triple, for each convolution."""
    seeds = {role: dealing.session_seed(KEY, role, MaterialId("a" * 32), b"") for role in Role}
    masks = {name: torch.ones(shape, dtype=torch.int64) for name, shape in masked_weights(NETWORK, 8, 9).items()}
    model = shared_model(whole_job(), NETWORK)
    for weight in model.weights.values():
        weight.delta.fill_(3)
    plain, ahead = (PartyMaterial(Role.A, PLAN, seeds[Role.A]) for _ in range(2))
    crypten_engine.compute_ahead(PLAN, model, ahead)
    item = PLAN.correlations[0]
    a, c = (plain.take(type(item))[2].a, ahead.take(type(item))[2].c)
    again = PartyMaterial(Role.A, PLAN, seeds[Role.A]).take(type(item))[2].c
    assert torch.equal(c, again + ring.conv2d(a, 3 * masks["c.weight"], item.geometry))


# --- memory ahead of a job ---


class BusyPipe:
    """A job is there from the third look on."""

    def __init__(self):
        self._looks = 0

    def holds_something(self):
        self._looks += 1
        return self._looks > 2


def test_touching_memory_ends_when_a_job_comes(monkeypatch):
    memory = torch.ones(5 * worker.WARM_BLOCK_BYTES, dtype=torch.uint8)
    monkeypatch.setattr(worker.torch, "empty", lambda size, dtype: memory[:size])
    worker.warm(BusyPipe(), memory.numel())
    assert memory.view(5, -1).amax(dim=1).tolist() == [0, 0, 1, 1, 1]


def test_memory_that_there_is_not_is_not_touched(monkeypatch):
    def refused(size, dtype):
        raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {size} bytes")

    monkeypatch.setattr(worker.torch, "empty", refused)
    worker.warm(BusyPipe(), 1 << 30)
