"""A process that has imported CrypTen and forks a worker for each evaluation, so that many evaluations take seconds.

`python -m tests.server.worker_host FD`. Each request on FD is the name of a sabotage with one end of a worker's socket pair.
The workers are `server.worker` unchanged, except for what the sabotage takes away: tests of a security property must fail
when the property is gone.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import torch
from torch import Tensor

from protocols import dealing
from protocols.plan import AndTriple, SharedBit
from server import crypten_runtime, worker
from tests.server.joined_workers import ROOT, WorkersPipe

HONEST: Final = "none"
REQUEST_BYTES: Final = 64
EXPAND: Final = dealing._expand


def without_masks(prg: dealing.Prg, index: int, item: dealing.Correlation) -> tuple[Tensor, Tensor | None]:
    """For a dealer of cancelling masks, in place of `dealing._expand`: the mask `a` of every triple is zero."""
    a, b = EXPAND(prg, index, item)
    return torch.zeros_like(a), b


def cancel_masks(sign: int) -> None:
    """A's and B's shares of every mask `a` are uniform, and cancel."""

    def cancelling(prg: dealing.Prg, index: int, item: dealing.Correlation) -> tuple[Tensor, Tensor | None]:
        a = dealing.Prg(bytes(32)).words(index, dealing.Stream.A, item.a_shape)
        if isinstance(item, SharedBit):
            a &= 1
        elif not isinstance(item, AndTriple):
            a *= sign
        return a, EXPAND(prg, index, item)[1]

    dealing._expand = cancelling


def with_repeated_masks(prg: dealing.Prg, index: int, item: dealing.Correlation) -> tuple[Tensor, Tensor | None]:
    """In place of `dealing._expand`: the mask `a` of correlation 1 is that of correlation 0, of 3 that of 2, and so on."""
    return EXPAND(prg, index - index % 2, item)[0], EXPAND(prg, index, item)[1]


def repeat_masks() -> None:
    """Each mask is used twice."""
    dealing._expand = with_repeated_masks


def keep_output() -> None:
    """The output share is released as it is."""
    worker.rerandomise = lambda role, output, peer_key: output


def open_output() -> None:
    """The server opens the result to itself, as CrypTen's get_plain_text does."""
    run = worker.crypten_engine.CrypTenEvaluation.run

    def run_and_open(self: worker.crypten_engine.CrypTenEvaluation, image: Tensor, sigma: Tensor) -> Tensor:
        share = run(self, image, sigma)
        self._shared(share).get_plain_text()
        return share

    worker.crypten_engine.CrypTenEvaluation.run = run_and_open


def open_twice() -> None:
    """The first product is evaluated twice, the second time with the same triple."""
    product = crypten_runtime.MaskedProtocol.mul

    def twice(self: crypten_runtime.MaskedProtocol, x: object, y: object) -> object:
        material = self._provider._material
        product(self, x, y)
        material._next -= 1
        material._c.setdefault(material._next, torch.zeros(material._plan.correlations[material._next].c_shape).long())
        return product(self, x, y)

    crypten_runtime.MaskedProtocol.mul = twice


SABOTAGES: Final[Mapping[str, Callable[[], None]]] = {
    HONEST: lambda: None,
    "cancel masks, A": lambda: cancel_masks(1),
    "cancel masks, B": lambda: cancel_masks(-1),
    "repeat masks": repeat_masks,
    "keep output": keep_output,
    "open output": open_output,
    "open twice": open_twice,
}


class WorkerHost:
    """Starts the process; each `start` gives our end of a fresh worker's pipe."""

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.server.worker_host", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._control.close()
        self._process.wait(20)

    def start(self, sabotage: str = HONEST) -> WorkersPipe:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [sabotage.encode().ljust(REQUEST_BYTES)], [theirs.fileno()])
        return WorkersPipe(ours)


def main() -> None:
    """Entry point."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    torch.set_num_threads(1)
    crypten_runtime.import_crypten()
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 1)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            SABOTAGES[request.decode().strip()]()
            sys.argv[1] = str(descriptors[0])
            worker.main()
            os._exit(0)
        os.close(descriptors[0])


if __name__ == "__main__":
    main()
