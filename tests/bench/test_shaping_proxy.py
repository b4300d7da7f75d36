"""The line of the benchmark's network conditions: by an injected clock, and once, coarsely, by the real one."""

import socket
import threading
import time

import pytest

from bench.shaping_proxy import BURST_SECONDS, LAN, WAN, Condition, Direction, Forwarder, ShapingProxy, pump

RATE = 1000.0  # bytes a second
DELAY = 0.5


def test_bytes_leave_at_the_rate_and_arrive_after_the_delay() -> None:
    line = Direction(RATE, DELAY)
    assert line.send(100, 10.0) == pytest.approx((10.1 - BURST_SECONDS, 10.6 - BURST_SECONDS))
    assert line.send(100, 10.0) == pytest.approx((10.2 - BURST_SECONDS, 10.7 - BURST_SECONDS))


def test_delay_does_not_limit_the_rate() -> None:
    """A hundred chunks handed over at once arrive in a hundred times their own time, and one delay."""
    line = Direction(RATE, DELAY)
    arrivals = [line.send(10, 0.0)[1] for _ in range(100)]
    assert arrivals[-1] == pytest.approx(1.0 + DELAY - BURST_SECONDS)


def test_an_idle_line_saves_up_no_more_than_its_bucket() -> None:
    line = Direction(RATE, 0.0)
    line.send(10, 0.0)
    departure, _ = line.send(1000, 100.0)
    assert departure == pytest.approx(101.0 - BURST_SECONDS)


def test_an_idle_line_still_delays() -> None:
    line = Direction(1e9, DELAY)
    assert line.send(1, 7.0)[1] == pytest.approx(7.0 + DELAY)


def test_a_late_caller_catches_up() -> None:
    """A thread that wakes up a millisecond late loses no bandwidth."""
    line = Direction(1e6, 0.0)
    now = 0.0
    for _ in range(100):
        departure, _ = line.send(1000, now)
        now = max(now, departure) + 0.0005
    assert departure == pytest.approx(0.1, abs=0.01)


class Clock:
    """Seconds that pass when somebody sleeps, seen by all threads."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += max(0.0, seconds)


def test_pump_passes_everything_on_in_order_and_not_early() -> None:
    clock, line = Clock(), Direction(RATE, DELAY)
    chunks = [bytes([index]) * 50 for index in range(40)]
    arrived: list[tuple[float, bytes]] = []
    source = iter([*chunks, b""])
    pump(
        lambda: next(source),
        lambda chunk: arrived.append((clock.now(), chunk)),
        line,
        clock=clock.now,
        sleep=clock.sleep,
    )
    assert [chunk for _, chunk in arrived] == chunks
    for index, (when, _) in enumerate(arrived):
        assert when >= 0.05 * (index + 1) + DELAY - BURST_SECONDS - 1e-9


def test_pump_ends_where_the_receiver_has_gone() -> None:
    def refuse(_: bytes) -> None:
        raise BrokenPipeError

    clock = Clock()
    source = iter([b"a", b"b", b""])
    pump(lambda: next(source), refuse, Direction(RATE, 0.0), clock=clock.now, sleep=clock.sleep)


def test_conditions_of_the_issue() -> None:
    assert (LAN.bits_per_second, LAN.rtt_seconds) == (1e9, 0.001)
    assert (WAN.bits_per_second, WAN.rtt_seconds) == (1e8, 0.040)
    assert WAN.text == "100 Mbit/s, 40 ms round trip"


@pytest.mark.integration
def test_two_parties_share_a_line_in_its_own_process() -> None:
    """Coarse, since machines are busy: not faster than the line, and not five times slower."""
    megabyte = 1_000_000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = ShapingProxy(Condition("test", 40e6, 0.1))  # 5 MB/s: 0.2 s for a megabyte
        try:
            near = socket.create_connection(_place(proxy.route("b", "a", f"127.0.0.1:{listener.getsockname()[1]}")), 10)
            far, _ = listener.accept()
            far.settimeout(10)
            started = time.monotonic()
            near.sendall(b"x")
            assert far.recv(1) == b"x"
            far.sendall(b"y")
            assert near.recv(1) == b"y"
            round_trip = time.monotonic() - started
            assert 0.1 <= round_trip < 0.5
            started = time.monotonic()
            threading.Thread(target=near.sendall, args=(bytes(megabyte),), daemon=True).start()
            left = megabyte
            while left:
                left -= len(far.recv(left))
            seconds = time.monotonic() - started
            assert 0.2 - BURST_SECONDS <= seconds < 1.25
            near.close()
            assert far.recv(1) == b""  # the end is passed on
            far.close()
        finally:
            proxy.close()


@pytest.mark.integration
def test_a_forwarder_that_is_closed_takes_no_more() -> None:
    forwarder = Forwarder("127.0.0.1:9", Direction(RATE, 0.0), Direction(RATE, 0.0))
    forwarder.close()
    with pytest.raises(ConnectionError):
        socket.create_connection(_place(forwarder.address), 5)


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
