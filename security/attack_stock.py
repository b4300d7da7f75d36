"""The known attacks on stock CrypTen, run for real, and the same attacks on our transcripts.

(a) One opening shows the upper bits of masks from a Mersenne Twister of which 32 bits of seed count; (b) under the provider
TFP server A deals to itself; (c) the two-party truncation fails silently. Stock CrypTen 0.4.1 runs in processes of its own
(`security.stock_party`), each attack uses one party's view; ours are two real worker processes (`security.recorded_workers`).

A twin counts as broken only if every attack on it succeeded: an attack that fails for a fault of ours must not go unseen.

Source: Knott et al., CrypTen, NeurIPS 2021; crypten/common/rng.py, mpc/provider/tfp_provider.py, mpc/provider/ttp_provider.py,
mpc/primitives/arithmetic.py.
"""

import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from pydicom.data import get_testdata_file
from torch import Tensor

from client.images import read_image
from client.model_file import load_model
from darkroom.simulation import shipped_models
from protocols.engines import MASKED
from protocols.errors import ConfigurationError
from protocols.fixed_point import decode, encode
from protocols.identifiers import Role
from protocols.prg import fresh_key
from security.attack_ours import (
    FALSE_ALARM,
    Forced,
    Injection,
    alarm_level,
    best_guesses,
    deviation,
    forced_flags,
    injected_failures,
    level_words,
    mask_estimates,
    rebuilt_with,
)
from security.evaluation import Check, Evaluation, Outcome, Picture, Setting
from security.mersenne_twister import ring_elements
from security.recorded_workers import Recording, record
from security.seed_search import CONFIRMED_WORDS, SPACE, Search, Window, search
from security.stock_party import StockView, TruncationCount, run_convolution, run_truncation
from security.tiles import grey, grey_words, write_tiles

IMAGE: Final = "examples_overlay.dcm"  # an abdominal MR in pydicom's own wheel
SIDE: Final = 128
SMALL: Final = 32  # of the images on which failures are injected
LEVEL: Final = 25 / 255
CHANNELS: Final = 4
QUICK_WINDOW: Final = 1 << 20
FULL_WINDOW: Final = 1 << 25
EXPONENTS: Final = (46, 48, 50, 52)  # where failures can be counted in seconds: 2^-18 to 2^-12 of the elements
QUICK_ELEMENTS: Final = 1 << 20
FULL_ELEMENTS: Final = 1 << 22
SHIPPED_SIDE: Final = 512


@dataclass(frozen=True, eq=False)
class StockAttack:
    """One attack on stock CrypTen: who, by what, and the image that came out."""

    provider: str
    attacker: int
    means: str
    view: StockView = field(repr=False)
    rebuilt: Int64[Tensor, "h w"] | None = field(repr=False)  # None: the search found no seed, or several
    found: Search | None = None

    @property
    def title(self) -> str:
        return f"{self.provider}, server {'AB'[self.attacker]} by {self.means}"


def attack_by_seed(provider: str, attacker: int, views: dict[int, StockView], window: int) -> StockAttack:
    """The attacker looks for the seed behind the other's mask. TFP: A's mask is all of it; TTP: each party's is a half."""
    view = views[attacker]
    own = view.drawn if provider == "TTP" else torch.zeros_like(view.opened)
    # Only where the window lies is taken from the victim: a search of all 2^32 seeds would not need it.
    found = search(-view.opened - own, Window.around(views[1 - attacker].seed % SPACE, window))
    rebuilt = None
    if len(found.seeds) == 1:
        mask = ring_elements(found.seeds[0], tuple(view.opened.shape)) + own
        rebuilt = (view.opened + mask)[0, 0]
    return StockAttack(provider, attacker, "seed search", view, rebuilt, found)


def attack_by_own_triple(views: dict[int, StockView]) -> StockAttack:
    """TFP: server A drew the mask itself."""
    view = views[0]
    return StockAttack("TFP", 0, "its own triple", view, (view.opened + view.drawn)[0, 0])


def third_party_seed(views: dict[int, StockView], seed: int, window: int) -> tuple[bool, Search]:
    """TTP without any opening: both seeds come from one Mersenne Twister, and server B knows the second of them.

    seed: low 32 bits of the TTPServer's, for the place of the window. Returns whether A's 64-bit seed came out right.
    """
    found = search(torch.tensor([views[1].seed]), Window.around(seed, window), slack=0, word=1)
    right = [int(ring_elements(candidate, (2,))[0]) == views[0].seed for candidate in found.seeds]
    return right == [True], found


def sample_image(side: int) -> Float64[Tensor, "h w"]:
    """The middle of a real MR image, on the grid of FRAC_BITS. Raises ConfigurationError where pydicom lacks it."""
    path = get_testdata_file(IMAGE)
    if path is None:
        raise ConfigurationError(f"pydicom's {IMAGE} is missing: install pydicom from its wheel")
    pixels = read_image(Path(str(path))).pixels
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return decode(encode(pixels[top : top + side, left : left + side]))


def expected_failures(image: Float64[Tensor, "h w"] | None) -> float:
    """Expected failed truncations in one evaluation by the shipped model, as `python -m bench.truncation` sums them.

    None: its own phantom of 512x512. security/ imports nothing of bench/ (import-linter), so it is run.
    """
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.truncation"]
        if image is not None:
            path = Path(folder) / "image.npy"
            np.save(path, image.numpy())
            command += ["--image", str(path)]
        done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return float(done.stdout.rsplit(maxsplit=1)[-1])


def evaluate(setting: Setting) -> Evaluation:
    """Item 1 of the security evaluation."""
    torch.set_num_threads(1)
    window = QUICK_WINDOW if setting.quick else FULL_WINDOW
    image = sample_image(SIDE)
    model = load_model(shipped_models()[0])
    setting.tell("attacks: stock CrypTen under TFP and TTP")
    attacks, third = _attack_stock(image, window, setting.quick)
    setting.tell("attacks: our workers on the same image")
    ours = record(model, encode(image)[None], level_words(LEVEL), key=fresh_key(), engine=setting.engine)
    setting.tell("attacks: truncation")
    counts = run_truncation(EXPONENTS, QUICK_ELEMENTS if setting.quick else FULL_ELEMENTS)
    expected = expected_failures(image) * (SHIPPED_SIDE / SIDE) ** 2 if setting.quick else expected_failures(None)
    small = encode(sample_image(SMALL))[None]
    key = fresh_key()
    honest = record(model, small, level_words(LEVEL), key=key, engine=setting.engine)
    last = honest.dealt.plan.rounds - 1
    openings = (0, last // 2, last) if setting.quick else tuple(range(0, last, 4)) + (last,)
    injections = list(injected_failures(model, small, level_words(LEVEL), honest, openings))
    forced = list(forced_flags(model, small, level_words(LEVEL), honest, key, openings[1:])) if setting.engine == MASKED else []
    searches = {role: search(mask_estimates(ours.views[role]), attacks_window(attacks, window)) for role in Role}
    checks = (
        _seed_check(attacks, third, searches, window),
        _rebuild_check(attacks, ours, image),
        _leak_check(ours, image),
        _truncation_check(injections, forced, counts),
    )
    pictures = _pictures(setting.folder, image, attacks, ours)
    text = _text(attacks, third[1], counts, expected, setting.quick)
    return Evaluation(
        "Attacks on stock CrypTen, and the same on ours",
        "What does a server learn from stock CrypTen's transcripts, and does the same work on ours?",
        checks,
        text,
        pictures,
    )


def attacks_window(attacks: Sequence[StockAttack], window: int) -> Window:
    """The window in which stock CrypTen's first seed was found: the same search, on ours."""
    found = attacks[0].found
    return Window.around(found.seeds[0] if found and found.seeds else 0, window)


def _attack_stock(image: Float64[Tensor, "h w"], window: int, quick: bool) -> tuple[list[StockAttack], tuple[bool, Search]]:
    """Under each provider, each server as the attacker, the other having brought the image; quick: without TTP's second."""
    x = image.float()[None, None]
    # Weights for the attacker's side, any will do: stock CrypTen's own tensors, never looked at
    weight = torch.linspace(-0.5, 0.5, CHANNELS * 9).view(CHANNELS, 1, 3, 3)
    attacks = []
    views, _ = run_convolution("TFP", x, weight, source=0)
    attacks.append(attack_by_seed("TFP", 1, views, window))
    views, _ = run_convolution("TFP", x, weight, source=1)
    attacks.append(attack_by_own_triple(views))
    for source in (0,) if quick else (0, 1):
        views, seed = run_convolution("TTP", x, weight, source=source)
        attacks.append(attack_by_seed("TTP", 1 - source, views, window))
    return attacks, third_party_seed(views, seed or 0, window)


def _seed_check(attacks: Sequence[StockAttack], third: tuple[bool, Search], searches: dict[Role, Search], window: int) -> Check:
    searched = [attack for attack in attacks if attack.found is not None]
    hits = [attack for attack in searched if attack.rebuilt is not None]
    finds = {role.value: len(result.seeds) for role, result in searches.items()}
    rates = [attack.found.rate for attack in searched if attack.found]
    slowest = min(rates)
    return Check(
        "No server can search for the seed of the other's masks",
        "AES-256 in counter mode under HKDF of a fresh 256-bit key is a pseudorandom function",
        Outcome(
            not any(finds.values()),
            f"the same search over {window} seeds on an opening of ours, as server A and as B, found"
            f" {sum(finds.values())}; a mask is an AES-256 stream, whose key is one of 2^256",
            {"found": float(sum(finds.values())), "window": float(window), "key_bits": 256.0},
        ),
        "stock CrypTen 0.4.1 (TFP and TTP): masks from a Mersenne Twister",
        Outcome(
            len(hits) < len(searched),
            f"the one right seed was found in {len(hits)} of {len(searched)} searches ({', '.join(a.title for a in searched)}),"
            f" at {slowest / 1e6:.1f} million seeds per second of one core or more: all 2^32 in"
            f" {SPACE / slowest / 60:.0f} minutes of one core (extrapolated from windows of {window})."
            f" Under TTP server B needs no opening: from its own seed alone A's 64-bit seed came out"
            f" {'right' if third[0] else 'wrong'}",
            {
                "found": float(len(hits)),
                "searches": float(len(searched)),
                "seeds_per_second": slowest,
                "whole_space_seconds_extrapolated": SPACE / slowest,
            },
        ),
        f"an unrelated opening fits a seed in {CONFIRMED_WORDS} words with probability below 2^-{45 * CONFIRMED_WORDS}: never",
    )


def _rebuild_check(attacks: Sequence[StockAttack], ours: Recording, image: Float64[Tensor, "h w"]) -> Check:
    guesses = {
        f"server {role.value}, {name}": deviation(guess, image)
        for role, view in ours.views.items()
        for name, guess in best_guesses(view).items()
    }
    level = alarm_level(len(guesses))
    largest = max(guesses, key=lambda name: guesses[name])
    truth = encode(image)
    exact = [attack for attack in attacks if attack.rebuilt is not None and torch.equal(attack.rebuilt, truth)]
    return Check(
        "No server can rebuild the image from what it was dealt and what was opened",
        "the dealer colludes with neither server; neither server holds the other's half of a mask",
        Outcome(
            guesses[largest] <= level,
            f"the most that {len(guesses)} guesses have to do with the image is {guesses[largest]:.2f} standard deviations"
            f" ({largest}); {level:.2f} would count",
            {"largest_deviation": guesses[largest], "alarm_level": level},
        ),
        "stock CrypTen 0.4.1: under TFP server A uses its own triple; otherwise the seed that was found",
        Outcome(
            len(exact) < len(attacks),
            f"{len(exact)} of {len(attacks)} attacks gave the {image.shape[0]}x{image.shape[1]} image, every word of it exactly"
            f" ({'; '.join(attack.title for attack in exact)})",
            {"exact": float(len(exact)), "attacks": float(len(attacks))},
        ),
        f"at most {FALSE_ALARM:g} for all guesses together (sub-Gaussian bound, Bonferroni)",
    )


def _leak_check(ours: Recording, image: Float64[Tensor, "h w"]) -> Check:
    """The attack itself works on our transcripts: with the peer's seed it gives the image, without it, it does not."""
    truth = encode(image)
    exact = {True: 0, False: 0}
    for role, view in ours.views.items():
        mask = ours.views[role.peer].own_mask()
        exact[True] += torch.equal(rebuilt_with(view, mask), truth)
        exact[False] += torch.equal(rebuilt_with(view, torch.zeros_like(mask)), truth)
    return Check(
        "What keeps our openings closed is the other server's seed alone, and each server has only its own",
        "seeds are derived for each role and sent to it alone, over its own TLS channel",
        Outcome(exact[False] == 0, f"without the other's seed {exact[False]} of 2 servers rebuilt the image"),
        "our engine with a leaked seed: the attacker is given the other server's 32 bytes",
        Outcome(exact[True] < 2, f"with it {exact[True]} of 2 servers rebuilt the image, every word of it exactly"),
        "2^-64 for each pixel: never",
    )


def _truncation_check(injections: Sequence[Injection], forced: Sequence[Forced], counts: Sequence[TruncationCount]) -> Check:
    refused = [injection for injection in injections if injection.refused]
    stopped = [force for force in forced if force.stopped]
    flags = (
        f". {len(stopped)} of {len(forced)} openings with a word at the ring's end, where truncation may fail, were flagged by"
        " both workers, and no output share left either"
    )
    failed = sum(count.failures for count in counts)
    figures = {f"failures_at_2^{count.exponent}": float(count.failures) for count in counts}
    figures |= {f"expected_at_2^{count.exponent}": count.expected for count in counts}
    return Check(
        "A truncation that fails does not pass for a result",
        "the edge's range check; the failed element changes at least one pixel by more than the range"
        + ("; on the masked engine the flag, which comes before it" if forced else ""),
        Outcome(
            len(refused) == len(injections) and len(stopped) == len(forced),
            f"{len(refused)} of {len(injections)} failures of 2^48, put on one element before opening"
            f" {', '.join(str(i.opening) for i in injections[:-1])} and on the output share, ended in IntegrityError"
            f" (they damaged {min(i.damaged for i in injections)} to {max(i.damaged for i in injections)} pixels)"
            + (flags if forced else ""),
            {"injected": float(len(injections)), "refused": float(len(refused))},
        ),
        "stock CrypTen 0.4.1 hands the result over",
        Outcome(
            failed == 0,
            f"{failed} wrong elements of {sum(count.elements for count in counts)}, off by up to"
            f" {max(count.largest_error for count in counts):.3g}, were opened without a word",
            figures,
        ),
        "a damaged pixel lands in [-2, 3] by chance with probability 2^-45: never",
    )


def _pictures(
    folder: Path, image: Float64[Tensor, "h w"], attacks: Sequence[StockAttack], ours: Recording
) -> tuple[Picture, ...]:
    low, high = float(image.min()), float(image.max())
    pictures = []
    for attack in attacks:
        seen = grey_words(attack.view.opened[0, 0])
        out = torch.ones_like(image) if attack.rebuilt is None else grey(decode(attack.rebuilt), low, high)
        name = f"stock_{attack.provider}_{'AB'[attack.attacker]}.png".lower()
        path = write_tiles(folder / name, (grey(image, low, high), seen, out))
        pictures.append(Picture(path, f"Stock CrypTen, {attack.title}: the image, the opening, what the server rebuilt from it."))
    for role, view in ours.views.items():
        guesses = best_guesses(view)
        seen = grey_words(guesses["the other's summand"])
        guess = grey_words(guesses["the opening without its own half of the mask"])
        path = write_tiles(folder / f"ours_{role.value.lower()}.png", (grey(image, low, high), seen, guess))
        caption = f"Ours, server {role.value}: the image, what the other server sent, the best that can be made of it."
        pictures.append(Picture(path, caption))
    return tuple(pictures)


def _text(attacks: Sequence[StockAttack], third: Search, counts: Sequence[TruncationCount], expected: float, quick: bool) -> str:
    rows = [
        f"| {attack.title} | {attack.found.tested if attack.found else 'none needed'} |"
        f" {f'{attack.found.rate / 1e6:.1f} million/s' if attack.found else ''} |"
        f" {f'{attack.found.whole_space_seconds / 60:.0f} min' if attack.found else ''} |"
        for attack in attacks
    ]
    rows.append(
        f"| TTP, server B from its own seed, no opening | {third.tested} | {third.rate / 1e6:.1f} million/s |"
        f" {third.whole_space_seconds / 60:.0f} min |"
    )
    failures = [f"| 2^{count.exponent} | {count.elements} | {count.failures} | {count.expected:.1f} |" for count in counts]
    summed = f"{SIDE}x{SIDE} MR image, times {(SHIPPED_SIDE // SIDE) ** 2}" if quick else f"{SHIPPED_SIDE}x{SHIPPED_SIDE} phantom"
    seen, due = sum(count.failures for count in counts), sum(count.expected for count in counts)
    return "\n".join(
        [
            _INTRODUCTION,
            "| attack | seeds tried | measured on one core | all 2^32, extrapolated |",
            "|---|---|---|---|",
            *rows,
            "",
            _TRUNCATION,
            "| integer | divisions | failures | expected, abs(x) / 2^64 each |",
            "|---|---|---|---|",
            *failures,
            "",
            f"Together {seen} against {due:.0f} expected, {(seen - due) / math.sqrt(due):+.1f} standard deviations."
            f" Summed in the same way over all wires of the shipped model (on a {summed}), {expected:.2g} failures are"
            f" expected in one evaluation of {SHIPPED_SIDE}x{SHIPPED_SIDE}: one image in {1 / expected:,.0f} is refused by the"
            " edge, and denoised again on fresh material if the user asks. This sum is computed, not observed.",
            "",
            _LIMITS,
        ]
    )


_INTRODUCTION: Final = f"""\
Stock CrypTen 0.4.1 was started as it comes: two processes over gloo, and for TTP its own TTPServer as a third. One party
brought a real image (`{IMAGE}`, from pydicom), the other the weights of a convolution. Each attack uses what one
party holds and receives, and nothing else; of the victim only the *place of the window* of seeds was taken, to keep the
search short. What a search of all 2^32 costs is extrapolated from the window.

Under TFP, server A draws every triple itself and needs no search. Server B sees `x - a`: pixels are small, so the upper 46
bits of A's mask words are open, and a candidate seed is tested against them. Only the low 32 bits of CrypTen's 64-bit seed
enter the generator. Under TTP each server finds the other's seed in the same way; B can also go straight for the seed of the
TTPServer, which draws both parties' seeds from one Mersenne Twister.
"""

_TRUNCATION: Final = """\
CrypTen's division of shares by 2^16, between two parties, on integers of one size:
"""

_LIMITS: Final = """\
Where the argument ends: the search on ours shows that *this* attack finds nothing; that there is no other rests on AES-256. A
uniform guess is uncorrelated with the image because one mask share is unknown; with the dealer's help there is no such mask.
Truncation in our CrypTen engine is CrypTen's own: it fails as rarely as the sum says, and the edge's range check sees it.
"""
