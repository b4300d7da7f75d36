"""The numbers that are asked of the masked engine (issue 6), each with what was measured.

All compare medians, over loopback; what rests on few evaluations is marked, as in the tables. Where a peer was given up at a
limit, nothing is claimed: a smaller size tells.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.grid import MASKED, PLAINTEXT, SEMI2K, STOCK
from bench.parties import Row
from bench.results import ENOUGH, FEW, Results
from bench.shaping_proxy import LOOPBACK
from bench.workload import BASE, DNCNN

UNKNOWN: Final = "not measured"


@dataclass(frozen=True)
class Ratio:
    """asked, measured: in words. met: None where something was not measured."""

    about: str
    asked: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return "-" if self.met is None else "met" if self.met else "**not met**"


def whole(row: Row) -> float:
    """Online and offline; an engine without an offline phase has it inside."""
    return row["online_seconds"] + row.get("offline_seconds", 0.0)


def online(row: Row) -> float:
    """Online seconds."""
    return row["online_seconds"]


def sent(row: Row) -> float:
    """Bytes that each server sends online."""
    return row["sent_bytes"]


def numbers_to_show(results: Results) -> list[Ratio]:
    """All of them, in the issue's order."""
    base_512, dncnn_128 = f"{BASE}, 512x512", "DnCNN-17-64, 128x128"
    out = [
        _times(results, f"{base_512}: online, stock CrypTen over ours", (BASE, 512), STOCK, online, 4),
        _times(results, f"{base_512}: online plus offline, stock CrypTen over ours", (BASE, 512), STOCK, whole, 2),
    ]
    for peer, name in ((STOCK, "stock CrypTen"), (SEMI2K, "SPU SEMI2K")):
        out.append(_times(results, f"{dncnn_128}: online, {name} over ours", (DNCNN, 128), peer, online, 5))
    for peer, name, asked in ((STOCK, "stock CrypTen", 8), (SEMI2K, "SPU SEMI2K", 3)):
        out.append(_times(results, f"{dncnn_128}: bytes sent per server, {name} over ours", (DNCNN, 128), peer, sent, asked))
    for peer, name in ((STOCK, "stock CrypTen"), (SEMI2K, "SPU SEMI2K")):
        about = f"{dncnn_128}: online plus offline, {name} over ours"
        out.append(_times(results, about, (DNCNN, 128), peer, whole, 1))
    out += _instead(results)
    out += _absolute(results)
    for network, name, parts in ((BASE, BASE, 4095), (DNCNN, "DnCNN-17-64", 1023)):
        cells = {
            place: cell.medians
            for place, cell in results.cells.items()
            if (place.network, place.engine) == (network, MASKED) and cell.rows
        }
        rows, sides = list(cells.values()), sorted({place.side for place in cells})
        largest = max((row["max_abs_diff"] for row in rows), default=None)
        out.append(
            Ratio(
                f"{name}: largest error against plaintext, at {', '.join(map(str, sides)) or 'no size'}",
                f"at most 1/{parts} = {1 / parts:.2e}",
                UNKNOWN if largest is None else _marked(f"{largest:.2e}", *rows),
                None if largest is None else largest <= 1 / parts,
            )
        )
    return out


def _marked(text: str, *rows: Row) -> str:
    """A figure, with FEW behind it where one of the medians that it comes from is of few evaluations."""
    return text + FEW if min(row["runs"] for row in rows) < ENOUGH else text


def _times(
    results: Results, about: str, where: tuple[str, int], peer: str, figure: Callable[[Row], float], asked: float
) -> Ratio:
    """A peer's figure over ours at the same place."""
    network, side = where
    return _quotient(
        about,
        results.medians(network, peer, side, LOOPBACK),
        results.medians(network, MASKED, side, LOOPBACK),
        figure,
        asked,
    )


def _quotient(about: str, theirs: Row | None, ours: Row | None, figure: Callable[[Row], float], asked: float) -> Ratio:
    words = "more than 1" if asked == 1 else f"at least {asked:g}"
    if theirs is None or ours is None:
        return Ratio(about, words, UNKNOWN, None)
    quotient = figure(theirs) / figure(ours)
    measured = _marked(f"{quotient:.{2 if quotient < 10 else 1}f}", theirs, ours)
    return Ratio(about, words, measured, quotient > 1 if asked == 1 else quotient >= asked)


def _instead(results: Results) -> list[Ratio]:
    """What a user would otherwise do: DnCNN in stock CrypTen, against `base` here, at the largest size where both are known."""
    sides = sorted({place.side for place in results.cells}, reverse=True)
    found = [
        (side, theirs, ours)
        for side in sides
        if (theirs := results.medians(DNCNN, STOCK, side, LOOPBACK)) and (ours := results.medians(BASE, MASKED, side, LOOPBACK))
    ]
    side, theirs, ours = found[0] if found else (None, None, None)
    place = f"{side}x{side}" if side else "same image"
    return [
        _quotient(f"{place}: {what}, DnCNN in stock CrypTen over `base` here", theirs, ours, figure, 100)
        for what, figure in (("online", online), ("bytes sent per server", sent))
    ]


def _absolute(results: Results) -> list[Ratio]:
    """`base` at 512x512 beside plaintext, and its rounds and memory."""
    ours, plain = (results.medians(BASE, engine, 512, LOOPBACK) for engine in (MASKED, PLAINTEXT))
    layers = results.networks.get(BASE, {}).get("layers")
    place = f"{BASE}, 512x512"
    if ours is None or plain is None or layers is None:
        return [Ratio(f"{place}: beside plaintext; rounds; peak memory", "12 times; layers + 3; 1.5 GB", UNKNOWN, None)]
    times, rounds, peak = online(ours) / online(plain), ours["rounds"], ours["peak_rss_bytes"] / 1e9
    return [
        Ratio(f"{place}: online, ours over plaintext PyTorch", "at most 12", _marked(f"{times:.1f}", ours, plain), times <= 12),
        Ratio(f"{place}: rounds", f"at most layers + 3 = {layers + 3}", _marked(f"{rounds:.0f}", ours), rounds <= layers + 3),
        Ratio(f"{place}: peak memory per server", "at most 1.5 GB", _marked(f"{peak:.2f} GB", ours), peak <= 1.5),
    ]
