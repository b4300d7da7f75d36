"""What becomes of an object in each case of failure: put aside, or kept and tried again. No network, no waiting."""

import io
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from structlog.testing import capture_logs

from client.origin import Provenance
from darkroom.output import Teller
from darkroom.pacs.lanes import Bell, Denoising, Lane, Sending
from darkroom.pacs.metrics import PacsMetrics
from darkroom.pacs.receiver import quiet_libraries
from darkroom.pacs.spool import Spool, Stage, open_spool
from protocols.errors import (
    AccessDenied,
    BadInputError,
    BusyError,
    ConfigurationError,
    DarkroomError,
    IntegrityError,
    LocalProtocolError,
    MaterialReusedError,
    NotFoundError,
    PeerUnavailableError,
    RemoteProtocolError,
)


class Service:
    """Both lanes around servers and a destination that answer as told."""

    def __init__(self, spool: Spool, *, forward_unsupported: bool = False) -> None:
        self.spool = spool
        self.errors: list[DarkroomError] = []  # of the next attempts to denoise
        self.refusals: list[DarkroomError] = []  # of the next attempts to send
        self.down: DarkroomError | None = None  # what a check of the servers raises
        self.received: list[bytes] = []
        self.waits: list[float] = []
        self.attempts = 0
        bell = _Bell(self.waits)
        self.metrics = PacsMetrics(spool)
        step = Denoising(spool, self.denoise, self.check, bell.ring, self.metrics, forward_unsupported=forward_unsupported)
        self.denoising = Lane(spool, Stage.INCOMING, step, bell)
        self.sending = Lane(spool, Stage.OUTGOING, Sending(spool, self.send, self.metrics), bell)

    def denoise(self, source: Path, target: Path, teller: Teller) -> None:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        target.write_bytes(b"result of " + source.read_bytes())

    def check(self) -> None:
        if self.down is not None:
            raise self.down

    def send(self, path: Path) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.received.append(path.read_bytes())

    def turns(self, count: int) -> list[int]:
        for _ in range(count):
            self.denoising.turn()
        return [self.spool.count(stage) for stage in Stage]


class _Bell(Bell):
    def __init__(self, waits: list[float]) -> None:
        super().__init__(threading.Event())
        self._waits = waits

    def pause(self, seconds: float) -> None:
        self._waits.append(seconds)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with open_spool(tmp_path / "spool", 1 << 20) as opened:
        opened.add(b"object")
        yield opened


@pytest.fixture
def service(spool: Spool) -> Service:
    return Service(spool)


def test_received_denoised_delivered(service: Service) -> None:
    assert service.turns(1) == [0, 1, 0]
    assert service.sending.turn()
    assert service.received == [b"result of object"]
    assert service.turns(0) == [0, 0, 0]
    assert not service.denoising.turn()


@pytest.mark.parametrize("error", [BadInputError("x"), IntegrityError("x")], ids=lambda error: type(error).__name__)
def test_a_failure_of_the_object_puts_it_aside_at_once(service: Service, error: DarkroomError) -> None:
    service.errors = [error]
    assert service.turns(3) == [0, 0, 1]
    assert service.attempts == 1
    assert service.waits == []


@pytest.mark.parametrize(
    "error",
    [BusyError("x"), ConfigurationError("disk full"), AccessDenied("x"), MaterialReusedError("x")],
    ids=lambda error: type(error).__name__,
)
def test_what_concerns_every_object_keeps_it(service: Service, error: DarkroomError) -> None:
    service.errors = [error] * 9
    assert service.turns(9) == [1, 0, 0]
    assert service.waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert service.turns(1) == [0, 1, 0]
    service.spool.add(b"another")
    service.errors = [error]
    service.turns(1)
    assert service.waits[-1] == 1, "after a success waits are short again"


@pytest.mark.parametrize("error", [PeerUnavailableError("x"), NotFoundError("x")], ids=lambda error: type(error).__name__)
def test_servers_out_of_reach_or_without_the_model_keep_it(service: Service, error: DarkroomError) -> None:
    service.errors, service.down = [error] * 9, error
    assert service.turns(9) == [1, 0, 0]
    service.down = None
    assert service.turns(1) == [0, 1, 0]


@pytest.mark.parametrize(
    "error",
    [PeerUnavailableError("x"), NotFoundError("x"), RemoteProtocolError("x"), LocalProtocolError("x")],
    ids=lambda error: type(error).__name__,
)
def test_an_object_that_breaks_the_calls_does_not_block_the_rest(service: Service, error: DarkroomError) -> None:
    service.errors = [error] * 9
    assert service.turns(3) == [0, 0, 1]
    assert service.attempts == 3


def test_forwarded_unchanged_where_asked_for(spool: Spool) -> None:
    service = Service(spool, forward_unsupported=True)
    service.errors = [BadInputError("colour")]
    assert service.turns(1) == [0, 1, 0]
    service.sending.turn()
    assert service.received == [b"object"]


@pytest.mark.parametrize("forward", [False, True])
def test_a_result_that_comes_back_is_put_aside(tmp_path: Path, forward: bool) -> None:
    dataset = dcmread(get_testdata_file("CT_small.dcm"))
    dataset.DerivationDescription = str(Provenance("base", 0.1, "crypten"))
    content = io.BytesIO()
    dataset.save_as(content)
    with open_spool(tmp_path / "spool", 1 << 20) as spool:
        service = Service(spool, forward_unsupported=forward)
        spool.add(content.getvalue())
        assert service.turns(1) == [0, 0, 1]
        assert service.attempts == 0
        spool.add(Path(get_testdata_file("CT_small.dcm")).read_bytes())
        assert service.turns(1) == [0, 1, 1]


def test_a_damaged_result_is_never_replaced_by_its_source(spool: Spool) -> None:
    service = Service(spool, forward_unsupported=True)
    service.errors = [IntegrityError("x")]
    assert service.turns(1) == [0, 0, 1]


def test_a_destination_out_of_reach_is_waited_for(service: Service) -> None:
    service.turns(1)
    service.refusals = [PeerUnavailableError("down"), BusyError("full")]
    for _ in range(3):
        service.sending.turn()
    assert service.waits == [1, 2]
    assert service.received == [b"result of object"]


@pytest.mark.parametrize("error", [RemoteProtocolError("x"), BadInputError("x")], ids=lambda error: type(error).__name__)
def test_what_the_destination_refuses_is_put_aside(service: Service, error: DarkroomError) -> None:
    service.turns(1)
    service.refusals = [error]
    service.sending.turn()
    assert service.turns(0) == [0, 0, 1]


def test_the_log_withholds_what_an_error_of_the_object_says(service: Service, tmp_path: Path) -> None:
    service.errors = [BadInputError("Doe^Jane has no pixels")]
    with capture_logs() as logs:
        service.turns(1)
    assert "Doe" not in str(logs)
    assert "Doe^Jane" in next((tmp_path / "spool" / "failed").glob("*.txt")).read_text()


def test_the_libraries_lines_are_withheld() -> None:
    names = ("pynetdicom", "pydicom")
    before = [
        (logging.getLogger(name).handlers, logging.getLogger(name).level, logging.getLogger(name).propagate) for name in names
    ]
    try:
        quiet_libraries()
        with capture_logs() as logs:
            for name in ("pynetdicom.assoc", "pydicom"):
                logging.getLogger(name).warning("Doe^Jane")
                logging.getLogger(name).error("Doe^Jane")
        assert [entry["log_level"] for entry in logs] == ["error", "error"]
        assert "Doe" not in str(logs)
    finally:
        for name, (handlers, level, propagate) in zip(names, before, strict=True):
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate
            logging.getLogger(name).setLevel(level)


def test_a_lane_ends_when_it_is_time_to_stop(spool: Spool) -> None:
    stopping = threading.Event()
    taken: list[str] = []
    bell = Bell(stopping)

    def step(entry: object) -> None:
        taken.append("one")
        stopping.set()
        bell.ring()

    Lane(spool, Stage.INCOMING, step, bell).run()
    assert taken == ["one"]
