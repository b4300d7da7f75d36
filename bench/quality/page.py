"""The quality report as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Final

from bench.quality.metrics import Merit
from bench.quality.networks import Judged, Timing
from bench.quality.packing_modes import ModeRow
from bench.quality.real_noise import RealNoise
from bench.quality.trials import Trial
from training.subjects import SubjectSplit

PHOTOGRAPHS: Final = """Networks that learned from natural_bsd400, on the tenth of it that was held back. Its photographs are for
non-commercial research only, as are these weights."""
WORST_CASES: Final = """The slice on which each network is furthest behind BM3D (or the best other peer), cropped to where it
loses the most. Differences are five times as strong, about mid-grey."""
MODES: Final = """Network `{name}`, packing noise 25/255. Nothing here ran on shares. A thief of both stores denoises what
he sees, or guesses mid-grey where that is nearer, as with keyed packing, whose words are uniform."""
REAL_NOISE: Final = """Slices as they are, no noise added, every method told what `--sigma auto` estimates. What is measured:
`bench/quality/real_noise.py`. Series of train/* were learned from, without their noise being known."""
Means = Mapping[str, Mapping[float, Merit]]
NOISY_FROM: Final = 1.0  # in 1/255, in flat regions: a slice with less has no noise that anybody would take away
LEFT_GOAL: Final = 0.5
SLOPE_GOAL: Final = 0.95
INTRODUCTION = """# Quality report

{made}

Noise is white and Gaussian, in 1/255 of the range, seeded; every method sees the same images, and every method that can use the
noise level is told the true one. Nothing is clipped. Data range 1 after each series' full stored range was mapped to [0, 1].
SNR, error rate and CNR are defined in `bench/quality/metrics.py`. BM3D is its authors' package, for non-commercial use only.
Research, not diagnosis."""


def psnr_table(means: Means, sigmas: Sequence[float]) -> str:
    """PSNR of every method at every level; the best but the truth in bold."""
    lines = ["| PSNR (dB), sigma | " + " | ".join(f"{sigma:g}" for sigma in sigmas) + " |", "|---|" + "---|" * len(sigmas)]
    best = {sigma: max(levels[sigma].psnr_db for levels in means.values()) for sigma in sigmas}
    for method, levels in means.items():
        cells = [
            f"**{levels[sigma].psnr_db:.2f}**" if levels[sigma].psnr_db == best[sigma] else f"{levels[sigma].psnr_db:.2f}"
            for sigma in sigmas
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def merit_table(means: Means, sigmas: Sequence[float]) -> str:
    """All figures."""
    lines = [
        "| sigma | method | PSNR (dB) | SSIM | RMSE (1/255) | SNR (dB) | error rate (%) | CNR |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for sigma in sigmas:
        for method, levels in means.items():
            one = levels[sigma]
            figures = (
                f"{one.psnr_db:.2f} | {one.ssim:.3f} | {one.rmse:.2f} | {one.snr_db:.2f} | {one.error_rate:.2f} | {one.cnr:.2f}"
            )
            lines.append(f"| {sigma:g} | {method} | {figures} |")
    return "\n".join(lines)


def cost_table(judged: Sequence[Judged], timings: Mapping[str, Timing]) -> str:
    """Wires, multiplications and, where they were measured, seconds on shares."""
    lines = [
        "| network | wires / pixel | MACs / pixel | rounds | weights | on shares: size "
        "| online s | dealing s | sent MiB | largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in judged:
        cost, timing = one.cost, timings.get(one.name)
        measured = "not measured | - | - | - | -"
        if timing is not None:
            measured = (
                f"{timing.side}x{timing.side} | {timing.online_seconds:.2f} | {timing.offline_seconds:.2f} | "
                f"{timing.sent_bytes / (1 << 20):.1f} | {timing.largest_difference:.1e}"
            )
        counts = f"{cost.wires_per_pixel:.1f} | {cost.macs_per_pixel:,.0f} | {cost.rounds} | {cost.parameters:,}"
        lines.append(f"| {one.name} | {counts} | {measured} |")
    return "\n".join(lines)


def mode_table(rows: Sequence[ModeRow]) -> str:
    """Keyed and blind: means over subjects, with what each gives away outside a window."""
    lines = [
        "| sigma | mode | PSNR at the edge (dB) | PSNR of a thief of both stores, with the same network (dB) "
        "| leaked, bits a pixel, at most | leaked of a 16x16 mean, bits, at most |",
        "|---|---|---|---|---|---|",
    ]
    for sigma in sorted({row.sigma for row in rows}):
        for mode in ("keyed", "blind"):
            chosen = [row for row in rows if row.sigma == sigma and row.mode == mode]
            mean = [
                sum(getattr(row, name) for row in chosen) / len(chosen)
                for name in ("psnr_db", "stolen_psnr_db", "leaked_bits", "leaked_mean_bits")
            ]
            lines.append(f"| {sigma:g} | {mode} | {mean[0]:.2f} | {mean[1]:.2f} | {mean[2]:.2f} | {mean[3]:.1f} |")
    return "\n".join(lines)


def real_table(rows: Sequence[tuple[str, str, RealNoise]]) -> str:
    """Slices as they are: (series, method, measured)."""
    lines = [
        "| series | method | estimated sigma (1/255) | noise in flat regions, before -> after (1/255) | left | edge slope kept |",
        "|---|---|---|---|---|---|",
    ]
    for series, method, one in rows:
        noise = f"{one.noise_before:.2f} -> {one.noise_after:.2f} | {100 * one.noise_left:.0f} %"
        lines.append(f"| {series} | {method} | {one.sigma:.1f} | {noise} | {100 * one.slope_kept:.1f} % |")
    return "\n".join(lines)


def real_summary(rows: Sequence[tuple[str, str, RealNoise]]) -> str:
    """Every method over all slices as they are, and how many of the noisy ones meet both goals of issue 5."""
    lines = [
        f"| method | slices | noise left, mean | noise left, worst | edge slope kept, mean | edge slope kept, worst "
        f"| of slices with noise of {NOISY_FROM:g}/255 or more: at most {LEFT_GOAL:.0%} left, at least {SLOPE_GOAL:.0%} kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(name for _, name, _ in rows):
        found = [one for _, name, one in rows if name == method]
        left, kept = [one.noise_left for one in found], [one.slope_kept for one in found]
        noisy = [one for one in found if one.noise_before >= NOISY_FROM]
        good = sum(one.noise_left <= LEFT_GOAL and one.slope_kept >= SLOPE_GOAL for one in noisy)
        lines.append(
            f"| {method} | {len(found)} | {sum(left) / len(left):.0%} | {max(left):.0%} "
            f"| {sum(kept) / len(kept):.1%} | {min(kept):.1%} | {good} of {len(noisy)} |"
        )
    return "\n".join(lines)


def split_sentence(split: SubjectSplit) -> str:
    """What the split by subject comes to."""
    training, validation, test = (", ".join(names) for names in (split.training, split.validation, split.test))
    total = sum(split.subjects)
    shares = "/".join(f"{100 * count / total:.0f}" for count in split.subjects)
    return (
        f"{total} subjects: {split.subjects[0]} to learn from ({training}), {split.subjects[1]} to choose by ({validation}), "
        f"{split.subjects[2]} to judge by ({test}). 70/15/15 of so few is {shares}. The shipped weights were chosen on both "
        "series of validation/*, so the part to judge by is not untouched. No network was trained under this split: its part to "
        "learn from is not what the shipped ones learned from, the medical series of train/*. Means over its slices:"
    )


def worst_sentence(method: str, peer: str, found: tuple[Trial, float]) -> str:
    """The worst case, in words."""
    trial, difference = found
    place = f"{trial.series}, slice {trial.number}, sigma {trial.sigma:g}"
    return f"{method} against {peer}, worst case: {difference:+.2f} dB ({place}, {trial.merit.psnr_db:.2f} dB)."


def gains(means: Means, method: str, peer: str) -> str:
    """A method's lead over a peer at each level, in words."""
    levels = ", ".join(
        f"{one.psnr_db - means[peer][sigma].psnr_db:+.2f} dB at {sigma:g}" for sigma, one in sorted(means[method].items())
    )
    return f"{method} against {peer}: {levels}."
