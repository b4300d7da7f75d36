"""Network conditions without privileges: a TCP forwarder that limits the rate and delays, each direction by itself.

`python -m bench.shaping_proxy BITS_PER_SECOND RTT_SECONDS` is a process of its own. Each JSON line on its standard input,
{"dialler": NAME, "listener": NAME, "target": HOST:PORT, "port": N}, is answered by {"address": HOST:PORT}, where that target is
reached from then on. All connections from one party to another share one direction, as they would share a wire.

What is modelled: the serialisation time of every byte, and half a round trip of delay behind it; bytes in flight are kept in a
queue, so delay does not limit the rate. What is not: TCP's own reaction to distance (slow start, loss), since each half of a
forwarded connection ends on this machine. That favours protocols of many connections and short bursts; every engine gets it.
"""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Queue
from typing import Final

HOST: Final = "127.0.0.1"
READ_BYTES: Final = 1 << 16  # 0.5 ms at 1 Gbit/s: short beside its delay
BURST_SECONDS: Final = 0.002  # depth of the bucket: what a thread that sleeps too long may catch up
QUEUE_CHUNKS: Final = 1024  # more than is in flight in any condition here (8 chunks fit into 40 ms at 100 Mbit/s)

Clock = Callable[[], float]
Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Condition:
    """A line between two parties."""

    name: str
    bits_per_second: float
    rtt_seconds: float

    @property
    def text(self) -> str:
        return f"{self.bits_per_second / 1e6:g} Mbit/s, {self.rtt_seconds * 1e3:g} ms round trip"


LAN: Final = Condition("lan", 1e9, 0.001)
WAN: Final = Condition("wan", 1e8, 0.040)
LOOPBACK: Final = "loopback"
CONDITIONS: Final = {condition.name: condition for condition in (LAN, WAN)}


class Direction:
    """One direction of a line: a token bucket and a delay. Only decides; the caller waits."""

    def __init__(self, bytes_per_second: float, delay_seconds: float) -> None:
        self._rate = bytes_per_second
        self._delay = delay_seconds
        self._free = float("-inf")  # when the line has sent all that it was given
        self._lock = threading.Lock()

    def send(self, count: int, now: float) -> tuple[float, float]:
        """When the last of `count` bytes has left, and when it arrives."""
        with self._lock:
            self._free = max(self._free, now - BURST_SECONDS) + count / self._rate
            return self._free, max(self._free, now) + self._delay  # what is caught up is rate, never delay


def pump(
    receive: Callable[[], bytes], deliver: Callable[[bytes], None], direction: Direction, *, clock: Clock, sleep: Sleep
) -> None:
    """Pass everything on until `receive` gives nothing: read at the line's rate, deliver after its delay."""
    flying: Queue[tuple[float, bytes]] = Queue(QUEUE_CHUNKS)

    def land() -> None:
        broken = False
        while True:
            arrival, chunk = flying.get()
            if not chunk:
                return
            if not broken:
                sleep(arrival - clock())
                try:
                    deliver(chunk)
                except OSError:
                    broken = True  # the receiver has gone; what is still in flight falls on the floor

    lander = threading.Thread(target=land, daemon=True)
    lander.start()
    try:
        while chunk := receive():
            departure, arrival = direction.send(len(chunk), clock())
            flying.put((arrival, chunk))
            sleep(departure - clock())
    finally:
        flying.put((0.0, b""))
        lander.join()


def _sleep(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)


class Forwarder:
    """Listens on a port, and passes every connection on to the target, through two directions."""

    def __init__(self, target: str, there: Direction, back: Direction, port: int = 0) -> None:
        self._target = target
        self._directions = (there, back)
        self._listener = socket.create_server((HOST, port))
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that stand end with their parties."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            host, _, port = self._target.rpartition(":")
            try:
                far = socket.create_connection((host, int(port)))
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink, direction in ((near, far, self._directions[0]), (far, near, self._directions[1])):
                threading.Thread(target=_pass, args=(source, sink, direction), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket, direction: Direction) -> None:
    with contextlib.suppress(OSError):  # one of the two has gone
        pump(lambda: source.recv(READ_BYTES), sink.sendall, direction, clock=time.monotonic, sleep=_sleep)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class ShapingProxy:
    """The proxy as a process of its own, whose threads disturb no party."""

    def __init__(self, condition: Condition) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.shaping_proxy", str(condition.bits_per_second), str(condition.rtt_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def route(self, dialler: str, listener: str, target: str, port: int = 0) -> str:
        """The address at which `dialler` reaches `listener`, who listens at `target`, over the line. port: ours, 0 for any."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise SystemExit("the shaping proxy was started without pipes")
        stdin.write(json.dumps({"dialler": dialler, "listener": listener, "target": target, "port": port}) + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise SystemExit("the shaping proxy ended; its last lines are above")
        return str(json.loads(answer)["address"])

    def close(self) -> None:
        """Stop it, and every connection with it."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Serve until standard input ends."""
    rate, rtt = float(sys.argv[1]) / 8, float(sys.argv[2])
    directions: dict[tuple[str, str], Direction] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        ends = (asked["dialler"], asked["listener"])
        there, back = (directions.setdefault(pair, Direction(rate, rtt / 2)) for pair in (ends, ends[::-1]))
        forwarder = Forwarder(asked["target"], there, back, asked["port"])
        print(json.dumps({"address": forwarder.address}), flush=True)


if __name__ == "__main__":
    main()
