"""On shares against plaintext, on validation slices: `python -m bench.exactness --images DIR`.

Every slice is stored, opened and denoised by live servers, as a hospital would, and compared with the same network in
float64. PSNR is against the slice before noise was added; its difference is secure minus plaintext.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from client import acquisition, edge
from client.config import load_config
from client.model_file import load_model
from client.model_owner import push_model
from client.origin import IDENTITY, Kind, Origin, SourceImage
from client.report import float_estimate, measure_exactness, psnr_db
from darkroom.simulation import simulation
from training.images import load_series, spread_slices

MODEL = Path("darkroom/models/base.safetensors")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.exactness", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder with index.json and validation/*.npz")
    parser.add_argument("--model", type=Path, default=MODEL, help="model file")
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--sigma", type=float, default=25.0, help="noise added, in 1/255")
    parser.add_argument("--seed", type=int, default=1, help="of the added noise")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    sigma = arguments.sigma / 255
    series = load_series(arguments.images, "validation")
    share = -(-arguments.slices // len(series))
    slices = [plane for entry in series for plane in entry.normalised(spread_slices(entry, share))][: arguments.slices]
    noise = np.random.default_rng(arguments.seed)
    model = load_model(arguments.model)
    rows = []
    with tempfile.TemporaryDirectory() as folder, simulation(Path(folder) / "site", tell=print) as running:
        config = load_config(running.hospital_file)
        push_model(config, model)
        for number, plane in enumerate(slices, start=1):
            truth = torch.from_numpy(np.asarray(plane, dtype=np.float64))
            noisy = truth + torch.from_numpy(noise.normal(0.0, sigma, tuple(truth.shape)))
            origin = Origin(kind=Kind.NPY, normalisation=IDENTITY, bits=64, name=f"slice {number}", dataset=None)
            record = acquisition.store(config, SourceImage(noisy, origin), sigma=sigma)
            result = edge.denoise(config, record.object_id, model=model.name)
            acquisition.delete(config, record.object_id)
            exactness = measure_exactness(result, float_estimate(model, noisy, result.sigma), truth=truth)
            row = {
                "psnr_in_db": psnr_db(truth, noisy),
                "psnr_out_db": psnr_db(truth, result.pixels),
                "psnr_diff_db": exactness.psnr_diff_db or 0.0,
                "max_abs_diff": exactness.max_abs_diff,
            }
            rows.append(row)
            print(f"{number}/{len(slices)} {json.dumps(row)}", file=sys.stderr, flush=True)
    summary = {
        "slices": len(rows),
        "mean_gain_db": float(np.mean([row["psnr_out_db"] - row["psnr_in_db"] for row in rows])),
        "largest_psnr_diff_db": max(abs(row["psnr_diff_db"]) for row in rows),
        "largest_abs_diff": max(row["max_abs_diff"] for row in rows),
    }
    print(json.dumps(summary))
    if arguments.json:
        arguments.json.write_text(json.dumps({"summary": summary, "slices": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
