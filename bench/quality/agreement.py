"""How output, truth and input of one slice go together, pixel by pixel."""

from collections.abc import Sequence

import numpy as np

from bench.quality.metrics import Plane


def correlation(left: Plane, right: Plane) -> float:
    """Pearson's, over all pixels."""
    return float(np.corrcoef(left.ravel().astype(np.float64), right.ravel().astype(np.float64))[0, 1])


def error_shares(result: Plane, truth: Plane, edges: Sequence[float]) -> list[float]:
    """The share of pixels whose error lies between each pair of neighbours in `edges`: a histogram that sums to 1 at most."""
    error = (result.astype(np.float64) - truth).ravel()
    counts, _ = np.histogram(error, bins=np.asarray(edges))
    return [float(count) / error.size for count in counts]


def regression(result: Plane, truth: Plane) -> tuple[float, float]:
    """Slope and intercept of the least-squares line of output on truth."""
    slope, intercept = np.polyfit(truth.ravel().astype(np.float64), result.ravel().astype(np.float64), 1)
    return float(slope), float(intercept)
