"""Collusion, measured: both stores stolen outside a window; edge and dealer against the weights; a nonce used twice.

Everything is stored and computed by live processes (`darkroom.simulation`). What a thief makes of the stores is in
`security.theft`, the algebra of edge and dealer in `security.edge_dealer`. That A and B together, or the dealer with either,
learn everything is stated in the threat model and needs no measurement.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest.mock import patch

import torch
from jaxtyping import Float64
from torch import Tensor

from client import acquisition
from client.config import load_config
from client.model_file import Model, load_model
from client.records import ObjectRecord
from client.report import psnr_db
from darkroom.simulation import Simulation, shipped_models, simulation
from protocols.engines import CRYPTEN, MASKED
from protocols.errors import BadInputError, MaterialReusedError
from protocols.fixed_point import decode, encode_image
from protocols.identifiers import Role
from protocols.packing import (
    NoiseKeys,
    PackingMode,
    fresh_nonce,
    gaussian_leakage_bits,
    mean_leakage_bits,
    noise,
    region_leakage_bits,
)
from protocols.prg import Prg, fresh_key
from security import edge_dealer, theft
from security.collusion_text import (
    NONCE_TEXT,
    REGION,
    Recovered,
    draw_curve,
    draw_panels,
    edge_text,
    keyed_text,
    masked_edge_text,
    theft_text,
)
from security.edge_dealer import FILTERS, SESSIONS, SIDE, View
from security.evaluation import Check, Evaluation, Outcome, Setting
from security.theft import Estimate, Loot

FAMILY: Final = 1e-6  # an honest system fails a check with at most this probability, all its tests together (Bonferroni)
GAUSSIAN: Final = (10, 15, 25, 40, 60, 100, 160, 250, 400, 630, 1000)  # sigma_p in 1/255
GAUSSIAN_QUICK: Final = (10, 25, 60, 160, 1000)
BM3D_QUICK: Final = (25, 160)  # it takes seconds for an image
BLIND: Final = (10, 25, 38)  # beyond 0.15 the client refuses: packed pixels would leave [-1, 2]
DEFAULT: Final = 25  # the client's own sigma_p for gaussian and blind packing
TELLING_GAIN: Final = 5.0  # dB; the shipped model gains 11
SOLVED: Final = 32  # filters given to lattice reduction, half a second each
SOLVED_QUICK: Final = 8
# A filter whose carries happen to be rare ones (8e-5 each) finds no other weights among the 3,124 tried; five such: 3e-14.
EXPLAINED: Final = FILTERS - 4


def evaluate(setting: Setting) -> Evaluation:
    """Run all of it. Raises DarkroomError: the simulation failed."""
    model = load_model(next(path for path in shipped_models() if path.stem == "base"))
    image = theft.truth()
    weights, windows = edge_dealer.random_weights(), _windows(image)
    with tempfile.TemporaryDirectory(prefix="darkroom-collusion-") as name:
        folder = Path(name)
        with simulation(folder / "ours", tell=setting.tell, modules=edge_dealer.COLLUDING) as running:
            stores = _store_all(running, image, setting)
            setting.tell("edge and dealer: sessions with re-randomised output")
            padded = edge_dealer.observe(running, weights, windows, CRYPTEN)
        with simulation(folder / "twin", tell=setting.tell, modules=edge_dealer.UNPADDED) as running:
            setting.tell("edge and dealer: sessions of the twin, output as it is")
            bare = edge_dealer.observe(running, weights, windows, CRYPTEN)
            masked = edge_dealer.observe(running, weights, windows, MASKED)
    rows, seen = _recover(stores, image, model, setting)
    weights_check, weights_words = _edge_with_dealer(padded, bare, weights, setting)
    masked_check, masked_words = _edge_with_dealer_masked(masked, bare, weights)
    keyed_check, keyed_words = _keyed(stores, image, model, seen)
    return Evaluation(
        title="Collusion, measured",
        question="If parties do get together, what exactly do they have?",
        checks=(keyed_check, _noise_is_as_assumed(stores, image), _nonces(stores, image), weights_check, masked_check),
        text="\n\n".join((theft_text(rows, image), keyed_words, weights_words, masked_words, NONCE_TEXT)),
        pictures=(draw_curve(rows, image, setting.folder), draw_panels(seen, image, setting.folder)),
    )


# --- storing, stealing, recovering ---


@dataclass(frozen=True)
class Stores:
    """What was stored live, and stolen."""

    gaussian: dict[int, Loot]
    blind: dict[int, Loot]
    keyed: Loot
    second: Loot  # another image, stored the same way
    repeated: tuple[Loot, Loot]  # the two images again, by a client made to use one nonce twice, without its ledger
    refusal: str  # what that client said with its ledger
    records: tuple[ObjectRecord, ...]  # of every honest store


def _store_all(running: Simulation, image: Float64[Tensor, "h w"], setting: Setting) -> Stores:
    config = load_config(running.client_file)

    def put(pixels: Tensor, mode: PackingMode, sigma: int = 0) -> ObjectRecord:
        packing_sigma = sigma / 255 if sigma else None
        return acquisition.store(config, theft.as_source(pixels), packing=mode, packing_sigma=packing_sigma, sigma=0.0)

    other = image.flip(1).contiguous()
    setting.tell("storing an MR image: keyed, gaussian and blind packing")
    keyed, second = put(image, PackingMode.KEYED), put(other, PackingMode.KEYED)
    gaussian = {sigma: put(image, PackingMode.GAUSSIAN, sigma) for sigma in _sigmas(setting)}
    blind = {sigma: put(image, PackingMode.BLIND, sigma) for sigma in BLIND}
    once, refusal = fresh_nonce(), ""
    with patch.object(acquisition, "fresh_nonce", lambda: once):
        first = put(image, PackingMode.KEYED)
        try:
            put(other, PackingMode.KEYED)
        except MaterialReusedError as error:
            refusal = str(error).partition(": ")[2]
        with patch.object(acquisition, "claim_nonce", lambda folder, nonce: None):
            repeated = first, put(other, PackingMode.KEYED)
    with tempfile.TemporaryDirectory(prefix="darkroom-stolen-") as name:
        stolen = theft.steal(running, Path(name))
        return Stores(
            {sigma: theft.open_loot(stolen, record) for sigma, record in gaussian.items()},
            {sigma: theft.open_loot(stolen, record) for sigma, record in blind.items()},
            theft.open_loot(stolen, keyed),
            theft.open_loot(stolen, second),
            (theft.open_loot(stolen, repeated[0]), theft.open_loot(stolen, repeated[1])),
            refusal,
            (keyed, second, *gaussian.values(), *blind.values()),
        )


def _sigmas(setting: Setting) -> Sequence[int]:
    return GAUSSIAN_QUICK if setting.quick else GAUSSIAN


def _recover(
    stores: Stores, image: Float64[Tensor, "h w"], model: Model, setting: Setting
) -> tuple[list[Recovered], dict[str, Float64[Tensor, "h w"]]]:
    """Run the thief's denoisers on every gaussian and blind store."""
    network, bm3d = theft.network_tool(model), theft.bm3d_tool()
    setting.tell("the thief denoises" + ("" if bm3d else " (BM3D is not installed and is left out)"))
    rows, seen = [], {}
    for mode, loots in ((PackingMode.GAUSSIAN, stores.gaussian), (PackingMode.BLIND, stores.blind)):
        for sigma, loot in loots.items():
            chosen = bm3d if not setting.quick or (mode is PackingMode.GAUSSIAN and sigma in BM3D_QUICK) else None
            row, estimate = _recover_one(mode, sigma, loot, image, network, chosen)
            setting.tell(f"{mode.value} {sigma}/255: packed {row.packed_db:.1f} dB, denoised {row.network_db:.1f} dB")
            rows.append(row)
            seen[f"{mode.value} {sigma}"] = estimate
    default = next(row for row in rows if row.sigma == DEFAULT)
    if default.network_db < default.packed_db + TELLING_GAIN:
        raise BadInputError(
            f"the model {model.name} gains {default.network_db - default.packed_db:.1f} dB at {DEFAULT}/255: it is no denoiser,"
            " and what a thief does with it would show nothing; restore the shipped model file"
        )
    return rows, seen


def _recover_one(
    mode: PackingMode, sigma: int, loot: Loot, image: Float64[Tensor, "h w"], network: Estimate, bm3d: Estimate | None
) -> tuple[Recovered, Float64[Tensor, "h w"]]:
    packed, sigma_p = theft.packed_as_image(loot), loot.sigma_p
    variance = float(image.var(correction=0))
    means, found = (theft.region_means(part, REGION) for part in (image, packed))
    variance_of_mean = float((means - image.mean()).square().mean())
    error_of_mean = float((found - means).square().mean())
    regions = region_leakage_bits(image, sigma_p, side=REGION)
    estimate = network(packed, sigma_p)
    return Recovered(
        mode,
        sigma,
        gaussian_leakage_bits(variance, sigma_p),
        (float(regions.min()), float(regions.max())),
        mean_leakage_bits(variance_of_mean, sigma_p, REGION * REGION),
        0.5 * math.log2(1.0 + variance_of_mean / error_of_mean),
        psnr_db(image, packed.clamp(0.0, 1.0)),
        psnr_db(image, estimate),
        psnr_db(image, bm3d(packed, sigma_p)) if bm3d else None,
        -10.0 * math.log10(variance * sigma_p**2 / (variance + sigma_p**2)),
    ), estimate


# --- checks ---


def smallest_p(tests: dict[str, float]) -> tuple[str, float]:
    """The most suspicious test, and its p after Bonferroni's correction."""
    name = min(tests, key=tests.__getitem__)
    return name, min(1.0, tests[name] * len(tests))


def _outcome(tests: dict[str, float]) -> Outcome:
    name, p = smallest_p(tests)
    return Outcome(p >= FAMILY, f"{len(tests)} tests; smallest corrected p {p:.2g} ({name})", {"tests": len(tests), "p": p})


def _keyed(
    stores: Stores, image: Float64[Tensor, "h w"], model: Model, seen: dict[str, Float64[Tensor, "h w"]]
) -> tuple[Check, str]:
    sigma, loot = max(stores.gaussian.items())
    estimate = theft.network_tool(model)(theft.uniform_as_image(stores.keyed.packed), math.sqrt(1 / 12))
    seen["keyed"] = estimate
    blank = psnr_db(image, torch.full_like(image, 0.5))
    check = Check(
        claim="Both stores stolen outside a window, keyed packing: no trace of the image",
        assumption="AES-256 is a pseudorandom function; the noise keys are not stolen too",
        ours=_outcome(theft.traces(image, stores.keyed.packed)),
        twin=f"gaussian packing at sigma {sigma}/255 in place of keyed",
        broken=_outcome(theft.traces(image, loot.packed)),
        error_rate=f"{FAMILY:g} for all correlations together: Student's t, exact up to the normal limit; Bonferroni",
    )
    return check, keyed_text(psnr_db(image, estimate), blank)


def _noise_is_as_assumed(stores: Stores, image: Float64[Tensor, "h w"]) -> Check:
    words = encode_image(image)
    tests: dict[str, float] = {}
    twin: dict[str, float] = {}
    for mode, loots in ((PackingMode.GAUSSIAN, stores.gaussian), (PackingMode.BLIND, stores.blind)):
        for sigma, loot in loots.items():
            label = f"{mode.value} {sigma}/255, "
            checked = theft.noise_checks(decode(loot.packed - words), loot.sigma_p, REGION)
            tests |= {label + name: p for name, p in checked.items()}
            keys = NoiseKeys.derive(fresh_key(), fresh_nonce())
            half = decode(noise(keys.of(Role.A), mode, tuple(words.shape), loot.sigma_p))
            twin |= {label + name: p for name, p in theft.noise_checks(half, loot.sigma_p, REGION).items()}
    return Check(
        claim="Gaussian and blind stores carry the noise that section 7's bounds take for granted: white, normal, of the stated"
        " sigma; means of regions scatter by sigma over their side",
        assumption="AES-256 is a pseudorandom function",
        ours=_outcome(tests),
        twin="one of the two noise streams is missing",
        broken=_outcome(twin),
        error_rate=f"{FAMILY:g} for all tests together: laws of mean, variance, correlation; Kolmogorov-Smirnov; Bonferroni",
    )


def _nonces(stores: Stores, image: Float64[Tensor, "h w"]) -> Check:
    difference = image - image.flip(1)
    exact = encode_image(image) - encode_image(image.flip(1).contiguous())

    def measure(first: Loot, second: Loot, note: str, refused: bool) -> Outcome:
        words = first.packed - second.packed
        outcome = _outcome(theft.traces(difference, words))
        equal = torch.equal(words, exact)
        seen = "the stores' difference IS the images' difference, to the last bit" if equal else outcome.measured
        return Outcome(outcome.holds and refused and not equal, f"{seen}; {note}", {**outcome.figures, "equal": float(equal)})

    nonces = {record.nonce for record in stores.records}
    fresh = f"{len(nonces)} nonces in {len(stores.records)} stores"
    refused = f"a client whose randomness repeats refused: {stores.refusal}" if stores.refusal else "a repeated nonce was taken"
    return Check(
        claim="A nonce is never used twice: every store draws a fresh one, and the client refuses one that it has used before",
        assumption="the operating system's randomness, 128 bits; where it repeats, the folder of the hospital's records",
        ours=measure(
            stores.keyed,
            stores.second,
            f"{fresh}; {refused}",
            len(nonces) == len(stores.records) and bool(stores.refusal),
        ),
        twin="a client whose nonce is fixed and that keeps no ledger stores two images",
        broken=measure(*stores.repeated, "one nonce for both stores", False),
        error_rate=f"{FAMILY:g} for all correlations together (as for keyed stores); 2^-121 for equal nonces",
    )


# --- edge and dealer ---


def _windows(image: Float64[Tensor, "h w"]) -> list[Float64[Tensor, "8 8"]]:
    """8-bit pieces of the image, with some noise so that their windows differ."""
    rough = (Prg(fresh_key()).words(0, 0, (SESSIONS, SIDE, SIDE)) & 63).double()
    pieces = [image[96 + 16 * i :, 96:][:SIDE, :SIDE] for i in range(SESSIONS)]
    return [((piece * 255).round() + extra).clamp(max=255) / 256 for piece, extra in zip(pieces, rough, strict=True)]


def _attack(views: Sequence[View], weights: edge_dealer.Weights, filters: int, padded: bool) -> tuple[Outcome, float]:
    solved = [edge_dealer.solve_filter(views, number) for number in range(filters)]
    right = sum(found == weights[number].flatten().tolist() for number, found in enumerate(solved))
    claimed = sum(found is not None for found in solved)
    tried = edge_dealer.try_candidates(views, weights)
    explained = tried.explained if padded else tried.explained_unpadded
    measured = (
        f"{right} of {filters} filters solved exactly ({claimed} claimed); other weights explain the whole view"
        f" for {explained} of {FILTERS} filters"
    )
    figures = {"filters": float(filters), "solved": float(right), "explained_otherwise": float(explained)}
    return Outcome(claimed == 0 and explained >= EXPLAINED, measured, figures), tried.carry_bits


def _edge_with_dealer(
    padded: Sequence[View], bare: Sequence[View], weights: edge_dealer.Weights, setting: Setting
) -> tuple[Check, str]:
    filters = SOLVED_QUICK if setting.quick else SOLVED
    setting.tell(f"edge and dealer: lattice reduction for {filters} filters, with and without re-randomisation")
    ours, carry_bits = _attack(padded, weights, filters, True)
    broken, _ = _attack(bare, weights, filters, False)
    check = Check(
        claim="CrypTen engine: edge and dealer together get nothing from output shares but the released words: they cannot"
        " solve for weights, and other weights with the same words explain all that they saw",
        assumption="output shares are re-randomised under a key of A and B; both servers are honest; AES-256 is a PRF",
        ours=ours,
        twin="servers that release output shares as they are",
        broken=broken,
        error_rate="2^-78 per filter that random shares look like small weights; 3e-14 that fewer than 60 filters have other"
        " weights among the (usually 3,124) tried, were these independent",
    )
    return check, edge_text(carry_bits, int(ours.figures["explained_otherwise"]))


def _edge_with_dealer_masked(masked: Sequence[View], bare: Sequence[View], weights: edge_dealer.Weights) -> tuple[Check, str]:
    """Both runs are of servers that do not re-randomise: on the masked engine not even that tells more than the result."""
    words = edge_dealer.predicted_words(masked)
    every = len(masked) * len(Role) * FILTERS
    tried, general = edge_dealer.try_masked_candidates(masked, weights), edge_dealer.try_candidates(bare, weights)

    def outcome(found: edge_dealer.Candidates, computed: str, whole: bool) -> Outcome:
        part = float(found.same_shares.double().mean())
        measured = (
            f"{computed}; of the weights with the same function on these images {part:.2%} explain all that was seen, to the"
            f" last bit, for {found.explained_unpadded} of {FILTERS} filters"
        )
        return Outcome(whole and part == 1.0, measured, {"part": part, "filters": float(found.explained_unpadded)})

    computed = f"{words} of {every} words of both servers' shares were computed from the result and the dealer's masks"
    check = Check(
        claim="Masked engine: what edge and dealer see of output shares, even without re-randomisation, is a function of the"
        " result and the dealer's masks; the result depends on the weights through the wire before truncation alone",
        assumption="none beyond honest servers: an identity, checked word for word",
        ours=outcome(tried, computed, words == every),
        twin="the CrypTen engine without re-randomisation, whose shares and carries depend on weights times masks",
        broken=outcome(general, "the shares are not computed without weights", True),
        error_rate="none: an exact comparison",
    )
    return check, masked_edge_text(len(tried.changes))
