"""`python -m bench.truncation`: how often CrypTen's truncation fails silently, summed over every wire of one evaluation.

A truncation of the integer x fails with probability |x| / 2^64 (CrypTen, Knott et al. 2021, section 4.2.3 of the long
version); x is the product before it is scaled down. The wires are those of the plaintext evaluation.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from bench.workload import phantom
from client.model_file import load_model
from protocols.fixed_point import FRAC_BITS, encode
from protocols.layers import AvgPool, Conv, Gate, Linear, Product, Scale
from protocols.oracle import oracle_wires

DEFAULT_MODEL = Path("darkroom/models/base.safetensors")


def expected_failures(model_path: Path, image: np.ndarray, sigma: float) -> float:
    """Expected number of failed truncations in one evaluation of this image."""
    model = load_model(model_path)
    network = model.network
    weights = {
        name: encode(tensor, frac_bits=network.weight_frac_bits if name.endswith(".weight") else FRAC_BITS)
        for name, tensor in model.weights.items()
    }
    words = encode(torch.from_numpy(image))[None]
    wires = oracle_wires(network, weights, words, int(encode(torch.tensor([sigma]))))
    total = 0.0
    for layer in network.layers:
        magnitude = float(wires[layer.out].double().abs().sum())  # after truncation, in units of 2^-FRAC_BITS
        match layer:
            case Conv() | Linear():
                total += magnitude * 2.0 ** (network.weight_frac_bits - 64)
            case Gate() | Product() | Scale():
                total += magnitude * 2.0 ** (FRAC_BITS - 64)
            case AvgPool():
                total += magnitude * 2.0**-64
            case _:
                pass
    return total


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--image", type=Path, help=".npy, 2-D, [0, 1]; a 512x512 phantom if not given")
    parser.add_argument("--sigma", type=float, default=25.0, help="noise level in 1/255")
    arguments = parser.parse_args()
    image = np.load(arguments.image, allow_pickle=False) if arguments.image else phantom(512, arguments.sigma)
    failures = expected_failures(arguments.model, image, arguments.sigma / 255)
    print(f"expected failed truncations per {image.shape[0]}x{image.shape[1]} image: {failures:.2g}")


if __name__ == "__main__":
    main()
