"""The peer: CrypTen as it comes (TFP provider, gloo, its own PRNG and protocols), on the same network and images.

`python -m bench.stock_crypten MODEL` is one of two parties; RANK, WORLD_SIZE and RENDEZVOUS come from the environment, as
CrypTen wants it. Each line on standard input, a .npy path and a noise level, is one evaluation; each answer is a JSON line.
Only what CrypTen cannot do by itself is replaced: its import (ONNX). The layers are walked by the same code as ours.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.model_file import Model, load_model
from protocols.fixed_point import FRAC_BITS
from protocols.network import Conv, Linear, Network
from protocols.ring import ConvGeometry
from protocols.shared_model import SharedModel
from server.crypten_engine import CrypTenEvaluation
from server.crypten_runtime import import_crypten


class StockEvaluation(CrypTenEvaluation):
    """The same walk over the layers with CrypTen's own convolution and bias, weights shared as CrypTen tensors."""

    def __init__(self, crypten: Any, network: Network, weights: Mapping[str, Tensor]) -> None:
        """weights: plaintext, used by party 0 only."""
        super().__init__(crypten, SharedModel(network, {}, {}))
        tensor = crypten.mpc.primitives.ArithmeticSharedTensor
        self._tensors = {name: tensor(weight, src=0) for name, weight in weights.items()}

    def _bilinear(self, x: Any, layer: Conv | Linear, geometry: ConvGeometry, bias: bool) -> Any:
        weight = self._tensors[layer.weight_name]
        if weight.share.dim() == 2:
            weight = weight.unsqueeze(-1).unsqueeze(-1)
        out = x.conv2d(
            weight,
            stride=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
            groups=geometry.groups,
        )
        if bias:
            out.share += self._tensors[layer.bias_name].share.view(-1, 1, 1)
        return out


def _timed_provider(crypten: Any) -> list[float]:
    """Seconds spent making triples: TFP has no offline phase, so its dealing happens inside the evaluation."""
    seconds = [0.0]
    provider = crypten.mpc.get_default_provider()
    for name in ("generate_additive_triple", "generate_binary_triple", "B2A_rng"):
        original = getattr(provider, name)

        def timed(*arguments: Any, _original: Any = original, **keywords: Any) -> Any:
            started = perf_counter()
            try:
                return _original(*arguments, **keywords)
            finally:
                seconds[0] += perf_counter() - started

        setattr(provider, name, timed)
    return seconds


def party(model: Model) -> None:
    """One party, until standard input ends."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    crypten = import_crypten()
    crypten.init()
    crypten.cfg.communicator.verbose = True
    communicator = crypten.communicator.get()
    evaluation = StockEvaluation(crypten, model.network, model.weights)
    dealing = _timed_provider(crypten)
    tensor = crypten.mpc.primitives.ArithmeticSharedTensor
    for line in sys.stdin:
        path, sigma = line.rsplit(maxsplit=1)
        image = torch.from_numpy(np.load(path, allow_pickle=False)).float()[None]
        share = tensor(image, src=0).share
        level = tensor(torch.tensor([float(sigma)]), src=0).share
        communicator.barrier()
        communicator.reset_communication_stats()
        dealing[0] = 0.0
        started = perf_counter()
        out = evaluation.run(share, level)
        seconds = perf_counter() - started
        stats = communicator.get_communication_stats()
        opened = tensor.from_shares(out).get_plain_text()
        if communicator.get_rank() == 0:
            expected = torch.from_numpy(np.load(f"{path}.float.npy", allow_pickle=False))
            answer = {
                "online_seconds": seconds,
                "dealing_seconds": dealing[0],
                "sent_bytes": stats["bytes"] // 2,  # CrypTen counts what one party sends and receives
                "rounds": stats["rounds"],
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "max_abs_diff": float((opened - expected).abs().max()),
                "frac_bits": FRAC_BITS,
            }
            print(json.dumps(answer), flush=True)


class StockCrypTen:
    """Two parties as processes on loopback, kept for the whole run."""

    def __init__(self, model_path: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()
        rendezvous = f"file://{self._folder.name}/rendezvous"
        self._parties = [
            subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "bench.stock_crypten", str(model_path)],
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "RENDEZVOUS": rendezvous,
                    "DISTRIBUTED_BACKEND": "gloo",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]

    def evaluate(self, image: Path, sigma: float) -> dict[str, float]:
        """One evaluation; the image's plaintext result lies beside it as IMAGE.float.npy."""
        for process in self._parties:
            if process.stdin is None:
                raise SystemExit("stock CrypTen was started without a pipe")
            process.stdin.write(f"{image} {sigma}\n")
            process.stdin.flush()
        leader = self._parties[0].stdout
        answer = leader.readline() if leader is not None else ""
        if not answer:
            raise SystemExit("stock CrypTen ended; its last lines are above")
        parsed: dict[str, float] = json.loads(answer)
        return parsed

    def close(self) -> None:
        """Stop both parties."""
        for process in self._parties:
            process.kill()
            process.wait()
        self._folder.cleanup()


if __name__ == "__main__":
    party(load_model(Path(sys.argv[1])))
