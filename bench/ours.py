"""Ours, as it is deployed: a dealer and two servers as processes, mutual TLS on every link, AES-CTR; the edge is this process.

One site serves both engines. Where there is a line, it lies between the servers, and between the dealer and each of them as well:
what is dealt is no smaller than what is sent, and leaving it unshaped would hide it. The hospital's own way to the servers is not
shaped, as the peers have none.
"""

import contextlib
from collections.abc import Callable
from time import perf_counter

import torch

from bench.parties import EngineError, Row, TooSlowError
from bench.shaping_proxy import ShapingProxy
from bench.workload import SIGMA, Work
from client import acquisition, edge
from client.config import load_config
from client.images import read_image
from client.model_owner import push_model
from darkroom.simulation import direct, simulation
from protocols.errors import DarkroomError
from protocols.float_evaluation import evaluate_float
from protocols.identifiers import Role


class Site:
    """All parties, with the network pushed and the image stored. Raises EngineError."""

    def __init__(self, work: Work, proxy: ShapingProxy | None, limit: float, tell: Callable[[str], None]) -> None:
        self._work, self._limit = work, limit
        self._stack = contextlib.ExitStack()
        try:
            running = self._stack.enter_context(
                simulation(work.folder / "site", tell=tell, route=direct if proxy is None else proxy.route)
            )
            self._config = load_config(running.hospital_file)
            push_model(self._config, work.model)
            record = acquisition.store(self._config, read_image(work.image_file), sigma=SIGMA)
            self._object = record.object_id
        except DarkroomError as error:
            self.close()
            raise EngineError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def evaluate(self, engine: str) -> Row:
        """One evaluation by the edge. Raises TooSlowError, EngineError."""
        started = perf_counter()
        try:
            result = edge.denoise(self._config, self._object, model=self._work.model.name, engine=engine)
        except DarkroomError as error:
            late = perf_counter() - started > self._limit
            raise (TooSlowError if late else EngineError)(str(error)) from error
        costs = result.costs
        return {
            "online_seconds": result.online_seconds,
            "offline_seconds": result.offline_seconds,
            "whole_seconds": perf_counter() - started,
            "sent_bytes": max(cost.sent_bytes for cost in costs.values()),
            "dealt_bytes": max(cost.dealt_bytes for cost in costs.values()),
            "rounds": costs[Role.A].rounds,
            "flags": max(cost.flags for cost in costs.values()),
            "peak_rss_bytes": max(cost.peak_rss_bytes for cost in costs.values()),
            "dealer_peak_rss_bytes": max(cost.dealer_peak_rss_bytes for cost in costs.values()),
            "max_abs_diff": float((result.pixels - self._work.expected).abs().max()),
        }

    def close(self) -> None:
        """Stop everything."""
        self._stack.close()


class SiteEngine:
    """One engine of a site, which outlives it."""

    def __init__(self, site: Site, engine: str) -> None:
        self._site, self._engine = site, engine

    def evaluate(self) -> Row:
        """One evaluation. Raises EngineError."""
        return self._site.evaluate(self._engine)

    def close(self) -> None:
        """The site's end is the stage's."""


class Plaintext:
    """The limit: no protection, float32, one thread, in this process."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(1)
        self._work = work
        self._image = read_image(work.image_file).pixels.float()[None, None]
        self._sigma = torch.tensor([SIGMA])

    def evaluate(self) -> Row:
        """One evaluation."""
        model = self._work.model
        started = perf_counter()
        with torch.inference_mode():
            out = evaluate_float(model.network, model.weights, self._image, self._sigma)[0, 0]
        seconds = perf_counter() - started
        error = float((out.double() - self._work.expected).abs().max())
        return {"online_seconds": seconds, "offline_seconds": 0.0, "whole_seconds": seconds, "max_abs_diff": error}

    def close(self) -> None:
        """Nothing to stop."""
