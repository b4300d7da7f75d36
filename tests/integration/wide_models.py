"""Two models of one name that take so many weights that a push, or their masking, can be broken in the middle.

Where it is broken: a line is held so that the step cannot be over, and something on it says that it has begun.
"""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from client import edge
from client.model_file import load_model, save_model
from client.origin import SourceImage
from client.records import ObjectRecord
from client.report import float_estimate
from protocols.network import Network
from tests.integration.failing_site import FailingSite, wait_until

NAME: Final = "wide"
WIDE_CHANNELS: Final = 256
# What a held line lets through: more than comes before the weights (131 kB at B) or their opening (129 kB), half of those.
HELD_WEIGHT_BYTES: Final = 1 << 16
SHIFT: Final = 0.25  # of the range, between the results of the two models
TOLERANCE: Final = 1 / 1023  # of the range: a grey level of 10 bits


@dataclass(frozen=True)
class WideModels:
    """Files of the one that is pushed first, and of the one that is to replace it; and an image to tell them by."""

    older: Path
    newer: Path
    image: SourceImage

    def in_force(self, site: FailingSite, record: ObjectRecord) -> Path:
        """Denoise the image, stored as `record`; the file of the model that did. Raises AssertionError: neither."""
        estimate = edge.denoise(site.config, record.object_id, model=NAME).estimate
        found = []
        for path in (self.older, self.newer):
            reference = float_estimate(load_model(path), self.image.pixels, record.sigma)
            if float((estimate - reference).abs().max()) <= TOLERANCE:
                found.append(path)
        assert len(found) == 1, "the result is that of neither model"
        return found[0]


def wide_models(folder: Path, network: Network, image: SourceImage) -> WideModels:
    """Write both files."""
    generator = torch.Generator().manual_seed(6)
    weights = {name: 0.01 * torch.randn(shape, generator=generator) for name, shape in network.parameter_shapes().items()}
    paths = []
    for age in ("older", "newer"):
        (folder / age).mkdir()
        paths.append(folder / age / f"{NAME}.safetensors")
        save_model(paths[-1], network, weights, bound=8.0)
        weights["last.bias"] = weights["last.bias"] + SHIFT
    return WideModels(*paths, image)


@dataclass(frozen=True)
class Hold:
    """A line, and how much it lets through; sent: counted towards its target."""

    line: str
    held: int
    sent: bool = False


STEPS: Final = {
    "upload": Hold("client-b", HELD_WEIGHT_BYTES, sent=True),
    "masks": Hold("dealer-b", 0),  # the dealer has opened them, and B cannot claim its half
    "A's opening": Hold("peer", HELD_WEIGHT_BYTES),
    "B's opening": Hold("peer", HELD_WEIGHT_BYTES, sent=True),
}


@contextmanager
def broken(site: FailingSite, step: str, act: Callable[[], object]) -> Generator[None]:
    """Hold what the block does at a step, and break it when it has come there."""
    hold, opened = STEPS[step], site.masks_opened()
    line = site.lines[hold.line]
    line.stall(hold.held, sent=hold.sent)

    def break_off() -> None:
        # What a dealer's line holds may be a server that asks whether the dealer is alive.
        wait_until(lambda: site.masks_opened() > opened if step == "masks" else line.holding, f"it has not come to {step}")
        act()

    with ThreadPoolExecutor(max_workers=1) as pool:
        acted = pool.submit(break_off)
        yield
    acted.result()
