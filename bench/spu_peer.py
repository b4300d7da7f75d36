"""The peer SPU (SecretFlow): its runtime in two processes on its own brpc link, protocols SEMI2K and CHEETAH.

An interpreter of its own (`make bench` makes .venv-spu) runs bench/spu_party.py: SPU pins numpy and JAX versions that are not
ours. SEMI2K takes correlated randomness from SPU's default, the trusted first party, which makes it as it is needed; CHEETAH
makes it by oblivious transfer and homomorphic encryption. Neither has an offline phase: all of it lies inside their online time.
"""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.parties import START_SECONDS, EngineError, Party, Row, ask_both
from bench.shaping_proxy import ShapingProxy
from bench.workload import SIGMA, Work

PYTHON: Final = Path(".venv-spu/bin/python")
PROTOCOLS: Final = {"spu-semi2k": "SEMI2K", "spu-cheetah": "CHEETAH"}
ONE_THREAD: Final = {"YACL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def versions() -> dict[str, str]:
    """Of SPU and JAX; none where SPU's environment is not there."""
    if not PYTHON.exists():
        return {}
    script = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('spu', 'jax')}))"
    done = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


class Spu:
    """Two parties. Raises EngineError where they do not come up."""

    def __init__(self, protocol: str, work: Work, proxy: ShapingProxy | None, limit: float) -> None:
        """protocol: SEMI2K or CHEETAH. limit: seconds that one evaluation may take."""
        if not PYTHON.exists():
            raise EngineError(f"{PYTHON} is missing; `make bench` makes it")
        self._work, self._limit = work, limit
        own = [f"127.0.0.1:{_free_port()}" for _ in range(2)]
        weights = work.folder / f"{protocol}.npz"
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in work.model.weights.items()}
        np.savez(weights, **arrays)
        self._parties: list[Party] = []
        for rank, name in enumerate("ab"):
            addresses = list(own)  # each listens at its own, and dials the other, through the line where there is one
            if proxy is not None:
                addresses[1 - rank] = proxy.route(name, "ab"[1 - rank], own[1 - rank])
            settings = work.folder / f"{protocol}-{rank}.json"
            settings.write_text(
                json.dumps(
                    {
                        "rank": rank,
                        "addresses": addresses,
                        "protocol": protocol,
                        "network": json.loads(work.model.network.to_json()),
                        "weights": str(weights),
                    }
                )
            )
            log = work.folder / f"{protocol}-{rank}.log"
            command = [str(PYTHON), "-P", "bench/spu_party.py", str(settings), str(log)]
            self._parties.append(Party(f"SPU {protocol} party {rank}", command, ONE_THREAD, log))
        try:
            ask_both(self._parties, {"prepare": str(work.image_file)}, START_SECONDS + limit)
        except BaseException:
            self.close()
            raise

    def evaluate(self) -> Row:
        """One evaluation. Raises EngineError."""
        request = {"image": str(self._work.image_file), "sigma": SIGMA, "expected": str(self._work.expected_file)}
        rows = ask_both(self._parties, request, self._limit)
        higher = ("online_seconds", "whole_seconds", "sent_bytes", "rounds", "peak_rss_bytes")
        return {**{name: max(row[name] for row in rows) for name in higher}, "max_abs_diff": rows[0]["max_abs_diff"]}

    def close(self) -> None:
        """Stop both."""
        for party in self._parties:
            party.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
