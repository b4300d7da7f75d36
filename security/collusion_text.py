"""What the report says about collusion, and its two pictures: the recovered images, and PSNR against the packing noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jaxtyping import Float64
from torch import Tensor

from client.report import psnr_db
from darkroom.chart import Line, write_chart
from darkroom.picture import GreyScale, Panel, write_picture
from protocols.packing import PackingMode
from security import theft
from security.edge_dealer import FILTERS, SESSIONS
from security.evaluation import Picture

REGION: Final = 32
SHOWN: Final = ("gaussian 25", "gaussian 160", "gaussian 1000", "blind 25")


@dataclass(frozen=True)
class Recovered:
    """What the stores of one packing gave away. PSNR against the image that was stored, in dB."""

    mode: PackingMode
    sigma: float  # in 1/255
    bits_per_pixel: float
    bits_range: tuple[float, float]  # over regions, per pixel
    bits_of_mean: float
    measured_bits_of_mean: float
    packed_db: float
    network_db: float
    bm3d_db: float | None
    pixel_db: float  # if every pixel had to be guessed by itself


def mean_guess_db(image: Float64[Tensor, "h w"]) -> float:
    """PSNR of the image's own mean in place of every pixel."""
    return -10.0 * math.log10(float(image.var(correction=0)))


def theft_text(rows: Sequence[Recovered], image: Float64[Tensor, "h w"]) -> str:
    """The table of recovered images, and what it means."""
    guess = mean_guess_db(image)
    weak = max((row for row in rows if row.mode is PackingMode.GAUSSIAN), key=lambda row: row.sigma)
    default, middle = (next(row for row in rows if row.sigma == sigma) for sigma in (25, 160))
    best = max(default.network_db, default.bm3d_db or 0.0)
    table = "\n".join(_line(row) for row in rows)
    return f"""\
**Stores of A and B stolen while no window is open.** A real MR image ({theft.SIDE}x{theft.SIDE}, from pydicom's wheel), stored
by live servers. The thief adds the shares and denoises; where the noise is beyond a denoiser he averages blocks first.
Guessing every pixel as the mean gives {guess:.1f} dB. *Bits* are DESIGN section 7's bounds: per pixel on average over the
image; the range over {REGION}x{REGION} regions; and for the mean of one such region, with what the stolen stores gave.
*One pixel*: the PSNR that the same bits would allow if pixels were independent.

| packing | sigma_p (1/255) | bits per pixel, at most | per region | bits of a region's mean, at most | measured | packed, dB \
| one pixel, dB | shipped denoiser, dB | BM3D, dB |
|---|---|---|---|---|---|---|---|---|---|
{table}

The bound is right and says little. At the default sigma of 25/255 a thief of both stores has the image at {best:.1f} dB. At
{middle.sigma:g}/255 the bound is {middle.bits_per_pixel:.2f} bits per pixel, yet the thief has {middle.network_db:.1f} dB where a
guess has {guess:.1f}, because a {REGION}x{REGION} mean still leaks {middle.bits_of_mean:.1f} bits. At {weak.sigma:g}/255 he has
{weak.network_db:.1f} dB: little more than the brightness of large regions is left, {weak.bits_of_mean:.1f} bits each. *Measured*
is an estimate from {(theft.SIDE // REGION) ** 2} regions (about 0.13 bits either way), so it may lie above its bound. Blind
packing is gaussian packing whose noise must stay below 0.15, so it gives away most. Neither protects from whoever holds both
stores; only keyed packing does.

BM3D (Dabov et al. 2007; program of Makinen, Azzari and Foi 2020, Tampere University) may be used for informational,
non-commercial purposes only. It is no part of Darkroom and needed for nothing else; its column is empty where it was not
installed or not run (the quick form runs it twice)."""


def _line(row: Recovered) -> str:
    bm3d = "" if row.bm3d_db is None else f"{row.bm3d_db:.1f}"
    return (
        f"| {row.mode.value} | {row.sigma:g} | {row.bits_per_pixel:.4f} | {row.bits_range[0]:.4f} to {row.bits_range[1]:.4f}"
        f" | {row.bits_of_mean:.2f} | {row.measured_bits_of_mean:.2f} | {row.packed_db:.1f} | {row.pixel_db:.1f}"
        f" | {row.network_db:.1f} | {bm3d} |"
    )


def keyed_text(recovered_db: float, blank_db: float) -> str:
    """What the thief has under keyed packing."""
    return f"""\
**Keyed.** The sum of both stolen shares, read as a picture and denoised, has {recovered_db:.1f} dB; a blank grey picture has
{blank_db:.1f} dB. The packed image correlates with the image in no byte, not even in means of 16x16 pixels."""


def edge_text(carry_bits: float, explained: int) -> str:
    """Edge and dealer, and where that argument ends."""
    return f"""\
**Edge and dealer, CrypTen engine.** A network of {FILTERS} filters of 3x3 (one window, one output word each) was pushed to live
servers; the edge ran {SESSIONS} sessions and kept both result shares apart, and the dealer wrote down every seed. Without
re-randomisation lattice reduction finds weights exactly, from server B's shares alone. With it, an output share is hidden under
a full pad; edge and dealer are left with the *sum* of the shares, {SESSIONS} equations for nine unknowns a filter, and for
{explained} of {FILTERS} filters we exhibit other weights (with another pad, as likely as the true one) that give every word
that they saw.

*Where the argument ends.* First, the result itself says something about the weights, and many results say more: extraction by
queries is out of scope. Second, the released words include the last-place carries of CrypTen's truncation, and these depend on
masks that the dealer knows. Of all weights with the same function on these images, a part of 2^-{carry_bits:.1f} (geometric mean)
also gives the same carries in {SESSIONS} sessions: so edge and dealer learn about {carry_bits:.1f} bits per filter *beyond* the
rounded result, and more with more sessions. A guess of the weights can be tested that way, and we know of no proof that it cannot
be turned into more. A truncation whose carry depends on the wire alone, not on single weights (DESIGN section 6), leaves
no more than further bits of the result itself; the CrypTen engine's local truncation is not of that kind."""


def masked_edge_text(candidates: int) -> str:
    """The same on the masked engine, and what is left there."""
    return f"""\
**Edge and dealer, masked engine.** A server's share of a wire is D - l_A, or -l_B, with D = result + l public to both servers.
The dealer knows l_A and l_B, so both shares can be computed from the result: {SESSIONS} sessions on servers that did *not*
re-randomise gave no word that was not. There is no sum of masks and weights in them for lattice reduction to solve. Servers
re-randomise on this engine too, so that it does not rest on this argument (and for the CrypTen engine, which needs it).

*Where the argument ends.* A carry is [(y mod 2^f) + (r mod 2^f) >= 2^f], and the dealer knows r: edge and dealer see not the
rounded wire but whether it lies above a threshold that they know, a new one each session. So repeated sessions on one image tell
further bits of y, the exact value before rounding, and, through all layers, of the network's value under known rounding.
That is more of the *result*, as finer output would be: all {candidates} other sets of weights with the same y gave the same
words. It is an argument for honest servers and a dealer that deals right. A dealer that deals wrong masks makes servers compute
something else, and then the edge learns that result: the weights fall to such queries, as they would to many honest ones."""


NONCE_TEXT: Final = """\
**A nonce used twice.** Two images under one nonce have one noise: the difference of the stores is the difference of the images,
exactly. The client draws 16 bytes from the operating system for each store, has no parameter for a nonce, and marks each as used
in a ledger beside its records before anything is sent: where the operating system repeats itself (a machine set back to a
snapshot), it refuses. The ledger ends at its folder: machines that share a noise key but no records do not see each other's,
and a snapshot that sets the folder back as well is not noticed. (A program that calls `protocols.packing.pack` itself is below
the ledger.)"""


def draw_curve(rows: Sequence[Recovered], image: Float64[Tensor, "h w"], folder: Path) -> Picture:
    """PSNR against sigma_p."""
    gaussian = [row for row in rows if row.mode is PackingMode.GAUSSIAN]
    blind = [row for row in rows if row.mode is PackingMode.BLIND]

    def curve(value: Callable[[Recovered], float]) -> list[tuple[float, float]]:
        return [(row.sigma, value(row)) for row in gaussian]

    allowed = "what the bound's bits per\npixel would allow, were\npixels independent"
    lines = [Line("shipped denoiser", curve(lambda row: row.network_db))]
    by_bm3d = [(row.sigma, row.bm3d_db) for row in gaussian if row.bm3d_db is not None]
    if by_bm3d:
        lines.append(Line("BM3D", by_bm3d))
    lines += [
        Line("stores as they are", curve(lambda row: row.packed_db)),
        Line(allowed, curve(lambda row: row.pixel_db), dashed=True),
        Line("blind packing,\nshipped denoiser", [(row.sigma, row.network_db) for row in blind], marks=True),
        Line("the image's mean everywhere", curve(lambda _: mean_guess_db(image)), dashed=True),
    ]
    path = folder / "collusion-curve.png"
    write_chart(path, "Both stores stolen, gaussian packing", "sigma_p in 1/255", "PSNR, dB", lines)
    return Picture(path, "Image recovered from both stores, against the packing noise. Higher is worse for the patient.")


def draw_panels(seen: dict[str, Float64[Tensor, "h w"]], image: Float64[Tensor, "h w"], folder: Path) -> Picture:
    """The recovered images."""
    scale = GreyScale.of(image)
    panels = [Panel("the image", "as stored", scale.show(image))]
    for name in ("keyed", *SHOWN):
        if name in seen:
            panels.append(Panel(name, f"{psnr_db(image, seen[name]):.1f} dB", scale.show(seen[name])))
    path = folder / "collusion-recovered.png"
    write_picture(path, panels)
    return Picture(path, "What a thief of both stores sees with the shipped denoiser. Numbers: sigma_p in 1/255, PSNR.")
