"""Stock CrypTen 0.4.1, run as it comes, with each party's own view written down: `python -m security.stock_party`.

Two parties over gloo (and, for the provider TTP, CrypTen's own TTPServer as a third process) evaluate the first convolution of
a network: one party brings the image, the other the weights. Each process is given its own input alone, and writes what
it holds and receives: its generator's seed, the randomness that it drew for the triple, what it sent and what was opened.
CrypTen is not changed; its functions are wrapped to listen. Only its import (ONNX) is mended (`server.crypten_runtime`).

Source: crypten/__init__.py (`_setup_prng`), mpc/provider/tfp_provider.py, mpc/provider/ttp_provider.py, mpc/primitives/beaver.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from protocols.errors import PeerUnavailableError
from server.crypten_runtime import import_crypten

PARTIES: Final = 2
THIRD_PARTY: Final = PARTIES  # the rank of CrypTen's TTPServer
RUN_SECONDS: Final = 240.0
SCALE_BITS: Final = 16  # CrypTen's default precision, and what a product is divided by


@dataclass(frozen=True, eq=False)
class StockView:
    """What one party of stock CrypTen holds and receives in one convolution."""

    seed: int = field(repr=False)  # of its own generator, all 64 bits, signed as it was drawn
    drawn: Tensor = field(repr=False)  # ring elements that it drew as the triple's a
    sent: Tensor = field(repr=False)  # its summand of the first opening
    opened: Tensor = field(repr=False)  # x - a, as both parties see it


@dataclass(frozen=True)
class TruncationCount:
    """How often CrypTen's two-party division was wrong, silently, on integers of one size."""

    exponent: int  # |x| = 2^exponent
    elements: int
    failures: int
    largest_error: float  # in units of the result

    @property
    def expected(self) -> float:
        """Knott et al. 2021: |x| / 2^64 per element."""
        return self.elements * 2.0 ** (self.exponent - 64)


def run_convolution(provider: str, image: Tensor, weight: Tensor, *, source: int) -> tuple[dict[int, StockView], int | None]:
    """The views of both parties, and with TTP the low 32 bits of the seed of the TTPServer's own generator.

    image: (1, 1, h, w) reals, brought by party `source`; weight: (c, 1, 3, 3) reals, brought by the other.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rank, own in ((source, image), (1 - source, weight)):
            np.save(folder / f"{rank}.npy", own.numpy())
        shapes = [",".join(map(str, tensor.shape)) for tensor in (image, weight)]
        arguments = ["convolve", provider, str(source), *shapes]
        _run(folder, arguments, PARTIES + (provider == "TTP"))
        views = {rank: _read_view(folder / f"{rank}.npz") for rank in range(PARTIES)}
        third = folder / f"{THIRD_PARTY}.txt"
        return views, int(third.read_text()) if third.exists() else None


def run_truncation(exponents: Sequence[int], elements: int) -> list[TruncationCount]:
    """Count failures of CrypTen's own division of shares, for integers +2^exponent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(folder, ["truncate", str(elements), *map(str, exponents)], PARTIES)
        with np.load(folder / "0.npz") as stated:
            rows = zip(exponents, stated["failures"].tolist(), stated["largest"].tolist(), strict=True)
            return [TruncationCount(exponent, elements, int(count), float(largest)) for exponent, count, largest in rows]


def _run(folder: Path, arguments: Sequence[str], processes: int) -> None:
    """Start all processes and wait. Raises PeerUnavailableError with the last lines of the first that failed."""
    root = str(Path(__file__).parent.parent)
    started = []
    for rank in range(processes):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
            "RANK": str(rank),
            "WORLD_SIZE": str(PARTIES),
            "RENDEZVOUS": f"file://{folder}/rendezvous",
            "DISTRIBUTED_BACKEND": "gloo",
        }
        command = [sys.executable, "-P", "-m", "security.stock_party", str(folder), *arguments]
        log = (folder / f"{rank}.log").open("wb")
        with log:
            started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    try:
        for rank, process in enumerate(started):
            if process.wait(RUN_SECONDS) != 0:
                tail = (folder / f"{rank}.log").read_text(errors="replace")[-2000:]
                raise PeerUnavailableError(f"stock CrypTen's party {rank} ended with status {process.returncode}:\n{tail}")
    finally:
        for process in started:
            process.kill()
            process.wait()


def _read_view(path: Path) -> StockView:
    with np.load(path) as stated:
        drawn, sent, opened = (torch.from_numpy(stated[key]) for key in ("drawn", "sent", "opened"))
        return StockView(int(stated["seed"]), drawn, sent, opened)


# --- inside a party's process ---


def _listen(owner: Any, name: str, heard: list[Any]) -> None:
    """Wrap a function so that the first tensor of what it takes and of what it gives is kept."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        before = [argument[0].clone() for argument in arguments if isinstance(argument, list)]
        result = original(*arguments, **keywords)
        heard.append((before, (result[0] if isinstance(result, list) else result).clone()))
        return result

    setattr(owner, name, wrapped)


def _convolve(folder: Path, provider: str, source: int, shapes: Sequence[Sequence[int]]) -> None:
    rank = int(os.environ["RANK"])
    crypten = import_crypten()
    crypten.cfg.mpc.provider = provider
    if rank == THIRD_PARTY:
        (folder / f"{rank}.txt").write_text(str(torch.initial_seed() % (1 << 32)))
        crypten.mpc.provider.TTPServer()
        return
    crypten.init()
    drawn: list[Any] = []
    opened: list[Any] = []
    module = crypten.mpc.provider.tfp_provider if provider == "TFP" else crypten.mpc.provider.ttp_provider
    _listen(module, "generate_random_ring_element", drawn)
    own = torch.from_numpy(np.load(folder / f"{rank}.npy", allow_pickle=False))
    absent = [torch.zeros(tuple(shape)) for shape in shapes]
    image, weight = (own, absent[1]) if rank == source else (absent[0], own)
    x, w = crypten.cryptensor(image, src=source), crypten.cryptensor(weight, src=1 - source)
    _listen(crypten.communicator.get(), "all_reduce", opened)
    x.conv2d(w, padding=1)
    if provider == "TFP":
        generator = crypten.generators["local"][torch.device("cpu")]
    else:
        generator = module.TTPClient.get().get_generator()
    sent, total = opened[0]
    np.savez(
        folder / f"{rank}.npz",
        seed=np.uint64(generator.initial_seed()).astype(np.int64),
        drawn=drawn[0][1].numpy(),
        sent=sent[0].numpy(),
        opened=total.numpy(),
    )
    crypten.uninit()


def _truncate(folder: Path, elements: int, exponents: Sequence[int]) -> None:
    rank = int(os.environ["RANK"])
    crypten = import_crypten()
    crypten.init()
    tensor = crypten.mpc.primitives.ArithmeticSharedTensor
    failures, largest = [], []
    for exponent in exponents:
        x = tensor(torch.full((elements,), 1 << exponent), precision=0, src=0)
        error = x.div_(1 << SCALE_BITS).reveal().sub_(1 << (exponent - SCALE_BITS)).abs_()
        failures.append(int((error > 1).sum()))  # one unit is the rounding that the method allows
        largest.append(float(error.max()))
    np.savez(folder / f"{rank}.npz", failures=np.array(failures), largest=np.array(largest))
    crypten.uninit()


def main(arguments: Mapping[str, Any]) -> None:
    """One party; its rank comes from the environment, as CrypTen wants it."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    folder, rest = arguments["folder"], arguments["rest"]
    if arguments["task"] == "convolve":
        shapes = [[int(size) for size in shape.split(",")] for shape in rest[2:]]
        _convolve(folder, rest[0], int(rest[1]), shapes)
    else:
        _truncate(folder, int(rest[0]), [int(exponent) for exponent in rest[1:]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m security.stock_party", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("task", choices=("convolve", "truncate"))
    parser.add_argument("rest", nargs="*")
    main(vars(parser.parse_args()))
