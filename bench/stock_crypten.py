"""The peer: CrypTen as it comes (TFP provider, gloo, its own PRNG and protocols), on the same network and images.

`python -m bench.stock_crypten MODEL` is one of two parties; RANK, WORLD_SIZE and RENDEZVOUS come from the environment, as
CrypTen wants it. Each JSON line on standard input is one evaluation; each answer is a JSON line. Only what CrypTen cannot do by
itself is replaced: its import (ONNX). The layers are walked by the same code as ours; ReLU is CrypTen's own comparison.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import gloo_line
from bench.parties import START_SECONDS, Party, Row, ask_both
from bench.shaping_proxy import ShapingProxy
from bench.workload import SIGMA, Work
from client.model_file import Model, load_model
from proto.peak_memory import peak_memory_bytes
from protocols.layers import Conv, Linear
from protocols.network import Network
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
    gloo_line.register()
    crypten = import_crypten()
    crypten.init()
    crypten.cfg.communicator.verbose = True
    communicator = crypten.communicator.get()
    evaluation = StockEvaluation(crypten, model.network, model.weights)
    dealing = _timed_provider(crypten)
    tensor = crypten.mpc.primitives.ArithmeticSharedTensor
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        image = torch.from_numpy(np.load(request["image"], allow_pickle=False)).float()[None]
        communicator.barrier()
        begun = perf_counter()
        share = tensor(image, src=0).share
        level = tensor(torch.tensor([float(request["sigma"])]), src=0).share
        communicator.barrier()
        communicator.reset_communication_stats()
        dealing[0] = 0.0
        started = perf_counter()
        out = evaluation.run(share, level)
        seconds = perf_counter() - started
        stats = communicator.get_communication_stats()
        opened = tensor.from_shares(out).get_plain_text()
        expected = torch.from_numpy(np.load(request["expected"], allow_pickle=False))
        answer = {
            "online_seconds": seconds,
            "dealing_seconds": dealing[0],
            "whole_seconds": perf_counter() - begun,
            "sent_bytes": stats["bytes"] // 2,  # CrypTen counts what one party sends and receives
            "rounds": stats["rounds"],
            "peak_rss_bytes": peak_memory_bytes(),
            "max_abs_diff": float((opened[0] - expected).abs().max()),
        }
        print(json.dumps(answer), flush=True)


class StockCrypTen:
    """Two parties. Raises EngineError where they do not come up."""

    def __init__(self, work: Work, proxy: ShapingProxy | None, limit: float) -> None:
        """limit: seconds that one evaluation may take."""
        self._work, self._limit = work, limit
        rendezvous = work.folder / "rendezvous"
        rendezvous.unlink(missing_ok=True)
        self._parties = [
            Party(
                f"stock CrypTen party {rank}",
                [sys.executable, "-m", "bench.stock_crypten", str(work.model_file)],
                {
                    "RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "RENDEZVOUS": f"{'file' if proxy is None else gloo_line.SCHEME}://{rendezvous.absolute()}",
                    "DISTRIBUTED_BACKEND": "gloo",
                    "OMP_NUM_THREADS": "1",
                },
                work.folder / f"crypten-{rank}.log",
            )
            for rank in range(2)
        ]
        try:
            self._start(proxy)
        except BaseException:
            self.close()
            raise

    def _start(self, proxy: ShapingProxy | None) -> None:
        """Party 0 dials party 1, and asks us for the way, once for each process group that CrypTen makes."""
        deadline = monotonic() + START_SECONDS
        waiting = list(self._parties)
        while waiting:
            said = waiting[0].answer(deadline)
            if "target" not in said:
                waiting.pop(0)
            elif proxy is not None:
                waiting[0].ask({"address": proxy.route("a", "b", said["target"], said["port"])})

    def evaluate(self) -> Row:
        """One evaluation. TFP deals inside it, so there are two ways to read its online time. Raises EngineError."""
        request = {"image": str(self._work.image_file), "sigma": SIGMA, "expected": str(self._work.expected_file)}
        rows = ask_both(self._parties, request, self._limit)
        return {name: max(row[name] for row in rows) for name in rows[0]}

    def close(self) -> None:
        """Stop both."""
        for process in self._parties:
            process.close()


if __name__ == "__main__":
    party(load_model(Path(sys.argv[1])))
