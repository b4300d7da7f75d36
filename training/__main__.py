"""Train and measure the denoising networks that Darkroom ships. Run by the model owner, from a clone.

stdout is the result; progress is on stderr, the full log in the run folder.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer

from client.model_file import load_model
from protocols.errors import BadInputError, ConfigurationError, DarkroomError
from protocols.hostile_images import phantom_batches
from protocols.wire_ranges import TOLERANCE, rounding_error
from training.checkpoint import load_checkpoint
from training.device import CPU, Device, choose_device
from training.export import add_ranges, export_model
from training.fit import Fitting, Log, Outcome
from training.images import load_series, load_split
from training.measure import SEED, SLICES, measure_model
from training.search import collect, keep_result, kept_result, load_search, run_candidate, search_table
from training.settings import load_settings
from training.start import start_weights
from training.timing import timed

IMAGES: Final = Path("../shared/data")
RUNS: Final = Path("training/runs")

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, no_args_is_help=True, help=__doc__)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file with the settings of the run.")]
ImagesOption = Annotated[Path, typer.Option("--images", help="Folder with index.json and the series it lists.")]
RunOption = Annotated[Path | None, typer.Option("--run", help=f"Folder for checkpoint and log; {RUNS}/CONFIG if not given.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="Model file to write; CONFIG.safetensors in the run's folder if not given.")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute; auto takes an accelerator where there is one.")]
StartOption = Annotated[
    Path | None, typer.Option("--start", help="Folder of a run of the same network, whose best weights are begun with.")
]
MinutesOption = Annotated[float | None, typer.Option("--minutes", min=0.0, help="Wall time allowed, instead of the file's.")]


@contextmanager
def _reported() -> Iterator[None]:
    """Turn our errors into a message and the exit code of DESIGN section 10."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None
    except DarkroomError as error:
        typer.echo(f"error: {error}", err=True)
        code = 3 if isinstance(error, BadInputError) else 4 if isinstance(error, ConfigurationError) else 8
        raise typer.Exit(code) from None


@app.callback(invoke_without_command=True)
def fit(
    context: typer.Context,
    config: ConfigOption = None,
    images: ImagesOption = IMAGES,
    run: RunOption = None,
    output: OutputOption = None,
    minutes: MinutesOption = None,
    device: DeviceOption = Device.AUTO,
    start: StartOption = None,
) -> None:
    """Train a network (without a command), or measure or export one.

    A run may be cut at any time: the same command goes on from its last checkpoint. When all steps are taken, or the time is
    used up, the weights with the best validation PSNR are exported, with the bound measured on hostile inputs.
    """
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise typer.BadParameter("training needs --config FILE, training/configs/base.toml for instance")
    with _reported():
        folder = run or RUNS / config.stem
        outcome = _fit(config, images, folder, minutes, choose_device(device), start)
        output = output or folder / f"{config.stem}.safetensors"
        _, validation = load_split(images, load_settings(config).images)
        bound = export_model(output, outcome.network, outcome.checkpoint, validation)
        state = outcome.checkpoint
        typer.echo(
            f"{'finished' if outcome.finished else 'time used up, resumable'}: step {state.step}, {state.skipped} skipped, "
            f"{state.restores} restores, {state.seconds:.0f} s wall, {state.cpu_seconds:.0f} s CPU; "
            f"best validation {state.best_psnr_db:.2f} dB, bound {bound:.2f}, written to {output}"
        )


def _fit(config: Path, images: Path, folder: Path, minutes: float | None, device: torch.device, start: Path | None) -> Outcome:
    settings = load_settings(config)
    if minutes is not None:
        settings = replace(settings, fit=replace(settings.fit, minutes=minutes))
    torch.set_num_threads(settings.fit.threads)
    torch.use_deterministic_algorithms(True, warn_only=device != CPU)  # an accelerator has no such form of every gradient
    first = None if start is None else start_weights(start, settings.build_network())
    training, validation = load_split(images, settings.images)
    settings = timed(settings, training, validation, folder, device)
    with _logged(folder) as log:
        return Fitting(settings, training, validation, folder, log, device, first).run()


@contextmanager
def _logged(folder: Path) -> Iterator[Log]:
    """A log that goes to a run's folder and to stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a") as file:

        def log(entry: dict[str, Any]) -> None:
            line = json.dumps(entry)
            file.write(line + "\n")
            file.flush()
            typer.echo(line, err=True)

        yield log


@app.command()
def export(
    config: Annotated[Path, typer.Option("--config", help="TOML file with the settings of the run.")],
    images: ImagesOption = IMAGES,
    run: RunOption = None,
    output: OutputOption = None,
) -> None:
    """Write the best weights so far of a run, which may be going on, to a model file."""
    with _reported():
        settings = load_settings(config)
        torch.set_num_threads(settings.fit.threads)
        folder = run or RUNS / config.stem
        output = output or folder / f"{config.stem}.safetensors"
        checkpoint = load_checkpoint(folder / "checkpoint.pt")
        _, validation = load_split(images, settings.images)
        bound = export_model(output, settings.build_network(), checkpoint, validation)
        typer.echo(f"step {checkpoint.step}, best validation {checkpoint.best_psnr_db:.2f} dB, bound {bound:.2f}: {output}")


@app.command()
def ranges(model: Annotated[Path, typer.Option("--model", help="Model file, changed in place.")]) -> None:
    """Fill in the fixed-point ranges of a model file's wires (protocols/wire_ranges.py); its weights stay."""
    with _reported():
        ranged = add_ranges(model)
        flags = ranged.expected_flags(512, 512)
        typer.echo(
            f"{ranged.frac_bits} fractional bits, rounding up to {ranged.error:.2e}, {flags:.2e} flags at 512x512: {model}"
        )


@app.command()
def measure(
    model: Annotated[Path, typer.Option("--model", help="Model file.")] = Path("darkroom/models/base.safetensors"),
    images: ImagesOption = IMAGES,
    json_path: Annotated[str | None, typer.Option("--json", metavar="PATH", help="Write JSON; - is stdout.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of a run: measure on what it held back, instead of validation/*.")
    ] = None,
    slices: Annotated[int, typer.Option(min=1, help="Of each series.")] = SLICES,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise, and of the search for large wires.")] = SEED,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Print every figure of a model card: quality on validation/*, cost, bounds by wire, conditioning, fixed point."""
    with _reported():
        torch.set_num_threads(threads)
        series = load_split(images, load_settings(config).images)[1] if config else load_series(images, "validation")
        report = measure_model(load_model(model), series, slices=slices, seed=seed)
        text = json.dumps(report.to_json(), indent=1)
        if json_path == "-":
            typer.echo(text)
            return
        if json_path is not None:
            Path(json_path).write_text(text + "\n")
        typer.echo(report.to_markdown())


@app.command()
def phantoms(
    model: Annotated[Path, typer.Option("--model", help="Model file.")] = Path("darkroom/models/base.safetensors"),
    side: Annotated[int, typer.Option(min=8, help="Of the square phantoms, in pixels.")] = 192,
    draws: Annotated[int, typer.Option(min=1, help="Of two phantoms at each noise level.")] = 20,
) -> None:
    """Print how far fixed point is off on phantoms, whose edges are sharp, by noise level: at worst, and how often."""
    with _reported():
        torch.set_num_threads(1)
        chosen = load_model(model)
        found: dict[float, list[float]] = {}
        for draw in range(draws):
            for batch in phantom_batches(side, 2, np.random.default_rng(100 + draw)):
                found.setdefault(batch[1], []).append(rounding_error(chosen.network, chosen.weights, [batch]) / TOLERANCE)
        for sigma, errors in found.items():
            beyond = sum(error > 1 for error in errors)
            typer.echo(f"sigma {sigma:g}/255: {max(errors):.3g} of 1/4095 at worst; beyond it in {beyond} of {draws} draws")


@app.command()
def search(
    config: Annotated[Path, typer.Option("--config", help="TOML file with candidates.")] = Path("training/search.toml"),
    images: ImagesOption = IMAGES,
    runs: Annotated[Path, typer.Option("--runs", help="Folder for the candidates' runs.")] = RUNS / "search",
    only: Annotated[list[str] | None, typer.Option("--only", help="Train these candidates alone; repeatable.")] = None,
    results: Annotated[Path, typer.Option("--results", help="Folder for the results, a small file each.")] = Path(
        "training/results"
    ),
    output: Annotated[Path, typer.Option("--output", help="Table to write.")] = Path("training/search.md"),
) -> None:
    """Train every candidate for the same CPU time and write the table. Cut off, the same command goes on.

    A candidate whose result is of other settings than the file's is trained again, and its result replaced.
    Several processes may share the work, each with its own --only; the last one to end writes the whole table.
    """
    with _reported():
        minutes, candidates = load_search(config)
        unknown = set(only or ()) - {one.name for one in candidates}
        if unknown:
            raise ConfigurationError(f"{config} has no candidate {', '.join(sorted(unknown))}")

        def tell(line: str) -> None:
            typer.echo(line, err=True)

        for candidate in candidates:
            if (only and candidate.name not in only) or kept_result(results, candidate, tell):
                continue
            folder, settings = candidate.run_folder(runs), candidate.settings
            torch.set_num_threads(settings.fit.threads)
            torch.use_deterministic_algorithms(True)
            training, validation = load_split(images, settings.images)
            with _logged(folder) as log:
                result = run_candidate(candidate, training, validation, folder, log)
            keep_result(results, result)
            tell(f"{candidate.name}: {result.psnr_db}")
        table = search_table(collect(candidates, results, tell), minutes)
        output.write_text(table)
        typer.echo(table)


if __name__ == "__main__":
    sys.exit(app())
