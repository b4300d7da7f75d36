"""`python -m security.staged_worker FD`: a nursery of the shipped workers, broken or watched as the stage says.

*Deviating* (server B): an error is added to this server's own summand of one opening, once. With a fixed, both servers then go
on with eps + e in place of eps = x - a, which is the evaluation of x + e: an additive error on that wire.
*Counted*: every tensor operation of the evaluation is written down with its shapes, so that two evaluations can be compared.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from protocols.identifiers import Role
from security.broken_dealing import apply_fault
from security.stage import ROLE_VARIABLE, Fault, Stage
from server import crypten_runtime, exchange, nursery, worker
from server.pipe import Kind, Pipe

DEVIATION_FILE = "deviation.json"
COUNTS_FILE = "operations.txt"


def break_worker(stage: Stage) -> None:
    """Change this process as the stage says. Run by a twin's nursery before it forks."""
    apply_fault(stage.fault)
    if stage.fault is Fault.DEVIATING and os.environ[ROLE_VARIABLE] == Role.B.value:
        worker.__dict__["Sender"] = _deviating_sender(stage.folder / DEVIATION_FILE)
    if stage.counted:
        _count_operations(stage.folder / COUNTS_FILE)


def _deviating_sender(path: Path) -> Any:
    """A Sender that adds `error` to word `position` of opening `index`, as the file says when the evaluation starts."""

    class Deviating(exchange.Sender):
        def __init__(self, pipe: Pipe) -> None:
            super().__init__(pipe)
            self._wanted = json.loads(path.read_text())
            self._index, self._sent = -1, 0

        def begin(self, index: int, words: int) -> None:
            self._index, self._sent = index, 0
            super().begin(index, words)

        def send(self, words: Tensor) -> None:
            place = self._wanted["position"] - self._sent
            if self._index == self._wanted["index"] and 0 <= place < words.numel():
                words.view(-1)[place] += self._wanted["error"]
            self._sent += words.numel()
            super().send(words)

    return Deviating


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and takes a digest over their names and the shapes of their inputs, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self.digest = hashlib.sha256()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.count += 1
        shapes = [tuple(item.shape) for item in arguments if isinstance(item, Tensor)]
        self.digest.update(f"{function}{shapes};".encode())
        return function(*arguments, **(keywords or {}))


def _count_operations(path: Path) -> None:
    shipped = worker.evaluate
    worker.warm = lambda *_: None  # how much memory there was time to touch is no operation on a job

    def counted(pipe: Pipe) -> None:
        send = pipe.send
        with _Operations() as operations:

            def send_counted(kind: Kind, payload: bytes = b"", label: int = 0) -> None:
                if kind is Kind.RESULT:  # before it is sent: a server ends the worker whose result it has
                    with path.open("a") as file:
                        file.write(f"{operations.count} {operations.digest.hexdigest()}\n")
                send(kind, payload, label)

            pipe.__dict__["send"] = send_counted
            shipped(pipe)

    worker.evaluate = counted


def main() -> None:
    """Entry point."""
    crypten_runtime.import_crypten()  # first: what is broken then stays broken
    break_worker(Stage.from_environment())
    nursery.main()


if __name__ == "__main__":
    main()
