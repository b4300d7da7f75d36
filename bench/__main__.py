"""`python -m bench`: our CrypTen engine beside stock CrypTen, the same network and images, in turn, in one run.

Ours runs as it is deployed: three processes, mutual TLS on every link, AES-CTR, a dealer. Stock CrypTen runs as two
processes on loopback (gloo, no TLS), with its trusted first party. One thread per server. Medians of all repetitions.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from bench.stock_crypten import StockCrypTen
from bench.tables import markdown
from bench.workload import phantom
from client import acquisition, edge
from client.config import HospitalConfig, load_config
from client.images import read_image
from client.model_file import Model, load_model
from client.model_owner import push_model
from client.report import float_estimate
from darkroom import __version__
from darkroom.simulation import simulation
from protocols.identifiers import Role
from protocols.packing import PackingMode

MODEL = Path("darkroom/models/base.safetensors")
SIGMA = 25.0 / 255

Row = dict[str, float]


def measure_ours(config: HospitalConfig, model: Model, path: Path, reference: torch.Tensor) -> Row:
    """One store, one evaluation by the edge, one delete."""
    record = acquisition.store(config, read_image(path), packing=PackingMode.KEYED, sigma=SIGMA)
    try:
        started = perf_counter()
        result = edge.denoise(config, record.object_id, model=model.name)
        seconds = perf_counter() - started
    finally:
        acquisition.delete(config, record.object_id)
    costs = result.costs
    return {
        "online_seconds": result.online_seconds,
        "offline_seconds": result.offline_seconds,
        "whole_seconds": seconds,
        "sent_bytes": max(cost.sent_bytes for cost in costs.values()),
        "dealt_bytes": max(cost.dealt_bytes for cost in costs.values()),
        "rounds": costs[Role.A].rounds,
        "peak_rss_bytes": max(cost.peak_rss_bytes for cost in costs.values()),
        "max_abs_diff": float((result.pixels - reference).abs().max()),
    }


def measure_stock(stock: StockCrypTen, path: Path) -> Row:
    """One evaluation. Its dealing happens inside the evaluation, so there are two ways to read its online time."""
    row = stock.evaluate(path, SIGMA)
    return {
        "online_seconds": row["online_seconds"],
        "online_without_dealing_seconds": row["online_seconds"] - row["dealing_seconds"],
        "sent_bytes": row["sent_bytes"],
        "rounds": row["rounds"],
        "peak_rss_bytes": row["peak_rss_bytes"],
        "max_abs_diff": row["max_abs_diff"],
    }


def measure_float(model: Model, path: Path) -> Row:
    """The limit: plaintext, float32, one thread."""
    image = torch.from_numpy(np.load(path, allow_pickle=False)).double()
    started = perf_counter()
    float_estimate(model, image, SIGMA)
    return {"online_seconds": perf_counter() - started}


def medians(rows: list[Row]) -> Row:
    """The median of each figure, which is not the figures of the median run."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def run(sizes: list[int], repetitions: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """All measurements; engines alternate, so that a noisy minute hits both."""
    model = load_model(MODEL)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, simulation(Path(folder) / "site", tell=tell) as running:
        config = load_config(running.hospital_file)
        push_model(config, model)
        stock = StockCrypTen(MODEL)
        try:
            for side in sizes:
                path = Path(folder) / f"{side}.npy"
                np.save(path, phantom(side, 25.0))
                reference = float_estimate(model, torch.from_numpy(np.load(path)).double(), SIGMA)
                np.save(f"{path}.float.npy", reference[None].numpy())
                rows: dict[str, list[Row]] = {"ours": [], "stock": [], "float": []}
                for repetition in range(repetitions + 1):
                    taken = {
                        "ours": measure_ours(config, model, path, reference),
                        "stock": measure_stock(stock, path),
                        "float": measure_float(model, path),
                    }
                    tell(
                        f"{side}x{side} {'warm-up' if repetition == 0 else f'{repetition}/{repetitions}'}: "
                        f"ours {taken['ours']['online_seconds']:.2f} s, stock {taken['stock']['online_seconds']:.2f} s"
                    )
                    if repetition:
                        for engine, row in taken.items():
                            rows[engine].append(row)
                results[str(side)] = {engine: medians(all_rows) for engine, all_rows in rows.items()}
        finally:
            stock.close()
    return {
        "version": __version__,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "crypten": "0.4.1"},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "model": model.name,
        "repetitions": repetitions,
        "sizes": results,
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512], help="sides of the square images")
    parser.add_argument("--repetitions", type=int, default=5, help="counted runs of each; one warm-up goes before")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    arguments = parser.parse_args()
    result = run(arguments.sizes, arguments.repetitions, lambda line: print(line, file=sys.stderr, flush=True))
    table = markdown(result)
    print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(table + "\n")


if __name__ == "__main__":
    main()
