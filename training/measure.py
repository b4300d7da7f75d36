"""All figures of a model card, from a model file and the validation images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from client.model_file import Model
from protocols.masked_plan import masked_plan
from protocols.wire_ranges import FLAGS_SIDE
from training.bounds import ESCAPE, Bounds, measure_bounds
from training.conditioning import Conditioning, measure_conditioning
from training.cost import Cost, network_cost
from training.exactness import LARGEST, LARGEST_PSNR_DB, Exactness, measure_exactness
from training.images import Series
from training.quality import Quality, measure_quality

SIGMAS: Final = (5.0, 15.0, 25.0, 50.0)
TRUE_SIGMA: Final = 25.0
STATED_SIGMAS: Final = (15.0, 20.0, 30.0, 40.0)  # what a wrong estimate of TRUE_SIGMA costs
SLICES: Final = 10  # of each series
EXACT_SLICES: Final = 2  # of each series, compared with the oracle: its integer convolutions are slow
SEED: Final = 7


@dataclass(frozen=True)
class Report:
    """The measured properties of one model.

    quality: per series, then over all slices. wrong_sigma: over all slices, by the level that the network is told.
    """

    name: str
    cost: Cost
    quality: dict[str, list[Quality]]
    wrong_sigma: dict[float, Quality]
    bounds: Bounds
    kinds: dict[str, float]
    conditioning: Conditioning
    exactness: Exactness
    stated_bound: float
    expected_flags: float  # in an evaluation at FLAGS_SIDE x FLAGS_SIDE

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    def _ascent(self) -> str:
        bounds = self.bounds
        if not bounds.searches:
            return "none searched by gradient ascent, as nothing multiplies wires"
        return f"{bounds.ascent:.2f} by gradient ascent ({bounds.escapes} of {bounds.searches} searches went beyond {ESCAPE:g})"

    def to_markdown(self) -> str:
        """Tables as the model card shows them."""
        cost, exact = self.cost, self.exactness
        verdict = "within" if exact.good else "NOT WITHIN"
        lines = [
            f"Cost (512x512): {cost.wires_per_pixel:.2f} wires per pixel, {cost.macs_per_pixel:.0f} MACs per pixel, "
            f"{cost.rounds} rounds, {cost.parameters} parameters; {self.expected_flags:.4f} expected flags.",
            "",
            "| images | sigma (1/255) | slices | PSNR noisy (dB) | PSNR out (dB) | gain (dB) | SSIM noisy | SSIM out |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(name, one) for name, rows in self.quality.items() for one in rows]
        kinds = ", ".join(f"{name} {value:.2f}" for name, value in self.kinds.items())
        wrong = ", ".join(f"{one.psnr_out_db:.2f} dB told {stated:g}" for stated, one in self.wrong_sigma.items())
        lines += [
            "",
            f"Wrong noise level (true {TRUE_SIGMA:g}): {wrong}.",
            f"Largest wire: {self.bounds.patterns:.2f} over hostile patterns, {self.bounds.slices:.2f} over noisy slices, "
            f"{self._ascent()}; the file states {self.stated_bound:.2f}. By kind: {kinds}.",
            f"By wire: {', '.join(f'{name} {value:.2f}' for name, value in self.bounds.wires.items())}.",
            f"Conditioning: an error e on all channels of a layer moves an output pixel by at most "
            f"{self.conditioning.one_layer:.2f} e, in all layers at once by {self.conditioning.all_layers:.2f} e.",
            f"Fixed point on {exact.cases} noisy slices: a pixel is off by at most {exact.difference:.1e} "
            f"({exact.difference_at}; allowed {LARGEST:.1e}), PSNR by at most {exact.psnr_difference_db:.4f} dB "
            f"({exact.psnr_difference_at}; allowed {LARGEST_PSNR_DB:g}): {verdict} what is allowed.",
        ]
        return "\n".join(lines)


def _row(name: str, one: Quality) -> str:
    gain = one.psnr_out_db - one.psnr_in_db
    psnr = f"{one.psnr_in_db:.2f} | {one.psnr_out_db:.2f} | {gain:.2f}"
    return f"| {name} | {one.sigma:g} | {one.slices} | {psnr} | {one.ssim_in:.3f} | {one.ssim_out:.3f} |"


def measure_model(model: Model, series: Sequence[Series], *, slices: int = SLICES, seed: int = SEED) -> Report:
    """Quality, cost, bounds, conditioning and exactness of a model as it lies in its file.

    slices: of each series. seed: of noise and searches.
    """
    groups = {one.name: [one] for one in series} | {"all": list(series)}
    quality = {
        name: [measure_quality(model.network, model.weights, group, sigma, slices=slices, seed=seed) for sigma in SIGMAS]
        for name, group in groups.items()
    }
    wrong_sigma = {
        stated: measure_quality(
            model.network, model.weights, series, TRUE_SIGMA, slices=slices, seed=seed, stated=stated, ssim=False
        )
        for stated in STATED_SIGMAS
    }
    bounds = measure_bounds(model.network, model.weights, series, seed=seed)
    return Report(
        name=model.name,
        cost=network_cost(model.network),
        quality=quality,
        wrong_sigma=wrong_sigma,
        bounds=bounds,
        kinds=bounds.of_kind(model.network),
        conditioning=measure_conditioning(model.network, model.weights, series, seed=seed),
        exactness=measure_exactness(model.network, model.weights, series, SIGMAS, slices=EXACT_SLICES, seed=seed),
        stated_bound=model.bound,
        expected_flags=masked_plan(model.network, FLAGS_SIDE, FLAGS_SIDE).expected_flags,
    )
