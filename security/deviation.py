"""Evaluation: a server that deviates, by an error in an opening: what the edge notices, and what its reaction would give away.

Semi-honest security does not cover this, and Darkroom claims no integrity against a malicious server. What it does claim is
narrower: a failure that the edge finds is terminal and local, so a server cannot use the edge as an oracle. Source of the
attack: selective failure, P. Mohassel and M. Franklin, Efficiency tradeoffs for malicious two-party computation, PKC 2006.
"""

import json
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from client import edge
from client.edge import Denoised
from client.model_file import Model
from client.records import ObjectRecord
from protocols.engines import session_plan
from protocols.errors import IntegrityError
from protocols.fixed_point import FRAC_BITS
from protocols.layers import Conv, Gate
from protocols.masked_plan import MaskedPlan, WireItem
from protocols.network import Network
from security.evaluation import Check, Evaluation, Outcome, Setting
from security.live import Site, live_site
from security.recording import ENDED, RECEIVED, Entry
from security.stage import Fault, Stage
from security.staged_worker import DEVIATION_FILE
from security.structure import difference, structure

SIDE: Final = 8
POSITION: Final = 27  # of the pixel that is attacked: row 3, column 3
SECRET: Final = 0.640625  # its value
GATE: Final = 1  # openings of the probed network, on either engine: the gate's factors,
LAST: Final = 2  # and the last convolution's input
BITS: Final = 8  # of the pixel, by bisection
QUIET_SECONDS: Final = 1.0  # after a session: would the edge come back?
SIZES: Final = (2.0**-8, 2.0**-4, 0.5, 1.0, 4.0, 2.0**10, 2.0**20)
COVERED: Final = "none: beyond the semi-honest model. Assumed only that the edge does not react (DESIGN section 1)"


@dataclass(frozen=True, eq=False)
class Seen:
    """One deviating session: what the edge got (nothing where it refused), and what the parties saw."""

    result: Denoised | None
    view: Mapping[str, list[Entry]]


def evaluate(setting: Setting) -> Evaluation:
    """Item 5 of the security evaluation. Run by whoever reviews; quick and full are alike, it takes half a minute."""
    image = torch.full((SIDE, SIDE), 0.25, dtype=torch.float64)
    image.view(-1)[POSITION] = SECRET
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), Fault.DEVIATING)
        with live_site(stage, probed_model(), tell=setting.tell, engine=setting.engine) as site:
            record = site.store(image)
            honest = _session(site, record, LAST, 0.0, quiet=QUIET_SECONDS)
            if honest.result is None:
                raise IntegrityError("an honest session was refused: there is nothing to compare with")
            noticed = _sweep(site, record, honest.result.pixels)
            refused = _session(site, record, LAST, SIZES[-1], quiet=QUIET_SECONDS)
            with edge_without_check():
                unchecked = _session(site, record, LAST, SIZES[-1])
            retried = _session(site, record, LAST, SIZES[-1], retry=True)
            setting.tell("deviation: errors of all sizes tried; now the pixel by bisection")
            guess, told = _bisect(site, record, retry=False)
            stolen, told_by_retry = _bisect(site, record, retry=True)
    return Evaluation(
        title="A server that deviates",
        question="What if a server does not follow the protocol and adds an error to a masked value?",
        checks=(
            _notice_check(refused, unchecked),
            _silence_check(honest, refused, retried),
            _oracle_check(guess, told, stolen, told_by_retry),
        ),
        text=_text(noticed),
    )


def probed_model() -> Model:
    """The square, by a gate: an error e in one factor makes it x * (x + e), so its effect depends on a secret."""
    network = Network((Conv("pair", "image", 2, 1), Gate("square", "pair"), Conv("out", "square", 1, 1)), weight_frac_bits=12)
    weights = {name: torch.zeros(shape) for name, shape in network.parameter_shapes().items()}
    for name in ("pair.weight", "out.weight"):
        weights[name] += 1.0
    return Model("probed", network, weights, bound=8.0)


def _session(site: Site, record: ObjectRecord, index: int, error: float, *, retry: bool = False, quiet: float = 0.0) -> Seen:
    """One evaluation in which server B adds `error` (in units of the range) to one word of opening `index`.

    retry: the edge is a script that runs again when the result is refused, which the shipped edge never does. quiet: seconds that
    the recording goes on after the edge has its answer.
    """
    deviation = {"index": index, "position": POSITION, "error": round(error * (1 << (FRAC_BITS + _shift(site, index))))}
    (site.stage.folder / DEVIATION_FILE).write_text(json.dumps(deviation))
    start = site.positions()
    result: Denoised | None = None
    try:
        result = site.denoise(record)
    except IntegrityError:
        if retry:
            try:
                site.denoise(record)
            except IntegrityError:
                pass
    time.sleep(quiet)
    return Seen(result, site.since(start))


def _shift(site: Site, index: int) -> int:
    """How far an opened wire is truncated afterwards: on the masked engine an error enters before that."""
    plan = session_plan(site.engine, site.model.network, SIDE, SIDE)
    item = plan.levels[index].items[0] if isinstance(plan, MaskedPlan) else None
    return item.shift if isinstance(item, WireItem) else 0


def _sweep(site: Site, record: ObjectRecord, honest: Tensor) -> dict[float, tuple[bool, float]]:
    """By size of the error: whether the edge noticed, and how far the result was off where it did not."""
    out = {}
    for size in SIZES:
        result = _session(site, record, LAST, size).result
        out[size] = (result is None, 0.0 if result is None else float((result.pixels - honest).abs().max()))
    return out


@contextmanager
def edge_without_check() -> Generator[None]:
    """The edge as it would be without its range check. For a twin."""
    shipped = edge._check_range
    edge._check_range = lambda estimate: None
    try:
        yield
    finally:
        edge._check_range = shipped


def _requests(view: Mapping[str, list[Entry]]) -> int:
    """How often the edge called server B."""
    return sum(entry.link == "edge Denoise" and entry.direction == RECEIVED for entry in view["server-b"])


def _bisect(site: Site, record: ObjectRecord, *, retry: bool) -> tuple[float, int]:
    """The attack: B picks the error so that x (x + e) leaves the edge's range exactly if x > t, and halves its interval.

    Returns its estimate of the pixel, and how many sessions told it something.
    """
    low, high, told = 0.0, 1.0, 0
    for _ in range(BITS):
        middle = (low + high) / 2
        view = _session(site, record, GATE, (edge.OUTPUT_HIGH - middle * middle) / middle, retry=retry).view
        reacted = _requests(view) > 1
        told += reacted
        low, high = (middle, high) if reacted else (low, middle)
    return (low + high) / 2, told


def _endings(view: Mapping[str, list[Entry]]) -> set[str]:
    return {entry.payload.decode() for party in view.values() for entry in party if entry.direction == ENDED}


def _notice_check(refused: Seen, unchecked: Seen) -> Check:
    off = "the edge took it" if unchecked.result is not None else "refused all the same"
    return Check(
        claim="An error that drives the result out of [-2, 3] is refused by the edge",
        assumption="none: the edge's own range check. It is no integrity check: a result inside the range passes",
        ours=Outcome(
            refused.result is None, f"error of {SIZES[-1]:g} in one word: IntegrityError at the edge, nothing is returned"
        ),
        twin="an edge without the range check",
        broken=Outcome(unchecked.result is None, f"error of {SIZES[-1]:g} in one word: {off}"),
        error_rate="none: one session each, exact",
    )


def _silence_check(honest: Seen, refused: Seen, retried: Seen) -> Check:
    outcomes = []
    for seen in (refused, retried):
        changed = difference(structure(honest.view), structure(seen.view))
        endings = _endings(seen.view)
        same = not changed and endings == {"OK"}
        outcomes.append(
            Outcome(
                same,
                changed
                or f"the same messages in the same order and sizes at A, B and dealer; all calls ended {', '.join(endings)}",
                {"requests": _requests(seen.view)},
            )
        )
    return Check(
        claim="A refused result and an accepted one look the same to both servers and the dealer",
        assumption="the user does not run it again in a way that a server can link to the refusal",
        ours=outcomes[0],
        twin="an edge that runs again by itself when the result is refused",
        broken=outcomes[1],
        error_rate="none: an exact comparison of structures (times left out) and of how each call ended",
    )


def _oracle_check(guess: float, told: int, stolen: float, told_by_retry: int) -> Check:
    def outcome(estimate: float, count: int) -> Outcome:
        off = abs(estimate - SECRET)
        known = off <= 2.0**-BITS
        return Outcome(
            not known,
            f"after {BITS} sessions the server's estimate is {estimate:.4f}, the pixel {SECRET:.4f}: off by {off:.4f};"
            f" {count} sessions drew a reaction",
            {"estimate": estimate, "error": off, "reactions": count},
        )

    return Check(
        claim="A server cannot read a pixel through the edge's reaction to errors of its choice",
        assumption=COVERED,
        ours=outcome(guess, told),
        twin="an edge that runs again by itself when the result is refused",
        broken=outcome(stolen, told_by_retry),
        error_rate=f"none on ours: no reaction at all; a blind guess is as close with probability {2.0 ** (1 - BITS):.3f}",
    )


def _text(noticed: Mapping[float, tuple[bool, float]]) -> str:
    rows = "\n".join(
        f"| {size:g} | {'refused' if found else 'not noticed'} | {'' if found else f'{off:.4f}'} |"
        for size, (found, off) in noticed.items()
    )
    return f"""
Server B was made to add an error to one word of one opening, and otherwise to do as it should. Both servers then evaluate x +
e on that wire. The size is in units of the image's range; the error entered at the last convolution's input, of weight 1.

| error added by server B | at the edge | largest change of the result |
|---|---|---|
{rows}

**Semi-honest security does not cover this.** A deviating server changes results: an error that keeps the result inside [-2, 3]
passes, and the image that comes back is wrong by as much. Nothing in this version detects that. The range check catches absurd
values, which is what failed truncations and clumsy errors give.

What is claimed is that the server *learns* nothing by it: its view stays masked, because the masks are not of its making (an
argument; Views measures servers that follow the protocol), and the edge shows no reaction.
The twin shows why that matters. An error of (3 - t^2)/t in one factor of a gate drives the result out of range exactly if the
pixel is above t; an edge that comes again when it refuses answers one such question a session, and {BITS} sessions give {BITS}
bits of a pixel. The shipped edge reads both streams to their end, refuses, and says so to its user only. A *user* who runs it
again within a minute is a reaction too: the error message says not to retry by a script, and no more can be done here without
authenticated shares.
""".strip()
