"""`python -m bench.quality` (`make quality`): our networks beside the denoisers that people use, on the validation images.

Writes a report with figures, and all measurements as JSON, to a folder that git ignores: its crops show heads of people.
BM3D and DnCNN take nearly all of its time: --slices makes it shorter.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Final

import torch

from bench.quality import defaults, figures, page
from bench.quality.boards import Board, judge
from bench.quality.networks import load_judged, time_on_own_site
from bench.quality.packing_modes import both_modes
from bench.quality.peers import BM3D, Denoise, available_peers
from bench.quality.real_noise import RealNoise, measure_real_noise
from bench.quality.trials import SIGMAS, means, subjects
from darkroom import __version__
from proto.exit_codes import exit_code_of
from protocols.errors import BadInputError, DarkroomError
from training.images import Series, load_index, load_series, load_split, spread_slices
from training.settings import load_settings
from training.subjects import split_by_subject

MODES_TO: Final = 49.0  # in 1/255: with more, acquisition and packing noise together are beyond what models are trained for
REAL_SLICES: Final = 3  # of each series, as they are
SIDE: Final = 128  # on shares
NATURAL_SPLIT: Final = Path("training/configs/natural.toml")
PHOTOGRAPHS: Final = ("natural_bsd400",)  # no medical series


def main() -> int:
    """Entry point. The exit codes are those of the command line (DESIGN section 10)."""
    arguments = _arguments()
    torch.set_num_threads(1)
    try:
        _report(arguments)
    except DarkroomError as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code_of(error)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"), help="folder with index.json and validation/*.npz")
    parser.add_argument(
        "--models",
        type=Path,
        nargs="+",
        help="model files, ours first; judged on validation/* (default: the shipped ones, and DnCNN where it was trained)",
    )
    parser.add_argument(
        "--natural",
        type=Path,
        nargs="*",
        help="model files to judge on the photographs held back (default: ours, and its DnCNN where it was trained)",
    )
    parser.add_argument("--slices", type=int, default=10, help="of each series")
    parser.add_argument("--photographs", type=int, default=40, help="of those held back; 40 is all")
    parser.add_argument("--seed", type=int, default=7, help="of the noise")
    parser.add_argument("--without", nargs="*", default=[], metavar="PEER", help=f"peers to leave out, {BM3D} for instance")
    parser.add_argument(
        "--shares", type=int, default=SIDE, metavar="SIDE", help="time networks on shares at this size (%(default)s); 0: do not"
    )
    parser.add_argument("--repetitions", type=int, default=3, help="counted evaluations on shares")
    parser.add_argument(
        "--log",
        type=Path,
        nargs="*",
        help=f"log.jsonl of training runs, for the training curve (default: those in {defaults.RUNS}; none: no curve)",
    )
    parser.add_argument("--output", type=Path, default=Path("quality-report"), help="folder for the report")
    arguments = parser.parse_args()
    missing = [*defaults.peers(arguments.without).missing]
    for name, find in (("models", defaults.models), ("natural", defaults.natural), ("log", defaults.logs)):
        if getattr(arguments, name) is None:
            found = find()
            setattr(arguments, name, list(found.paths))
            missing += found.missing
    for line in missing:
        _tell(f"not found: {line}")
    if not arguments.models:
        parser.error(f"{defaults.SHIPPED} holds no model file; name some with --models")
    peers = available_peers()
    unknown = set(arguments.without) - set(peers)
    if unknown:
        parser.error(f"no peer {', '.join(sorted(unknown))}; there are {', '.join(peers)}")
    return arguments


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _report(arguments: argparse.Namespace) -> None:
    judged = load_judged(arguments.models)
    series = load_series(arguments.images, "validation")
    peers = {name: denoise for name, denoise in available_peers().items() if name not in arguments.without}
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)

    # What may fail goes first: judging takes hours.
    curve = {path.parent.name: path for path in arguments.log}
    drawn = {"training": figures.training_curve(folder / "training.png", curve)} if curve else {}
    timings = time_on_own_site(judged, arguments.shares, arguments.repetitions, _tell) if arguments.shares else {}

    chosen = subjects(series, arguments.slices, arguments.seed)
    board = judge(judged, peers, chosen, _tell)
    natural = _natural_board(arguments, peers)
    first = judged[0]
    modes = [row for one in chosen if one.sigma <= MODES_TO for row in both_modes(one, first.denoise)]
    ours = {one.name: one.denoise for one in judged}
    every = ours | peers
    compared = ours | ({BM3D: peers[BM3D]} if BM3D in peers else {})
    real = _real_noise(_medical(arguments.images), every, folder / "real-noise.png")

    subject = next(one for one in chosen if one.sigma == figures.MIDDLE and one.number == arguments.slices // 2)
    figures.crops(folder / "crops.png", subject, compared)
    figures.psnr_against_wires(folder / "wires.png", judged, board.levels, [name for name in board.levels if name in peers])
    pictures, sentence = figures.agreement(folder, subject, first.name, first.denoise)
    shown = {
        "crops": folder / "crops.png",
        "real noise": folder / "real-noise.png",
        "PSNR and wires": folder / "wires.png",
        **pictures,
        **drawn,
    }

    parts = [
        page.INTRODUCTION.format(made=_made(arguments, board, natural, series)),
        "## Quality",
        *board.text(),
        *board.worst_cases(folder),
        "## The literature's protocol: subjects split 70/15/15",
        *_protocol(arguments.images, board),
        *([] if natural is None else ["## Photographs", page.PHOTOGRAPHS, *natural.text(), *natural.worst_cases(folder)]),
        "## Cost",
        page.cost_table([*judged, *(natural.judged if natural else ())], timings),
        "## Blind beside keyed, the network in floating point in both",
        page.MODES.format(name=first.name),
        page.mode_table(modes),
        "## Real noise",
        page.REAL_NOISE,
        page.real_summary(real),
        page.real_table([row for row in real if row[1] in (first.name, BM3D)]),
        "## Agreement",
        sentence,
        "\n\n".join(f"![{name}]({path.name})" for name, path in shown.items()),
    ]
    text = "\n\n".join(parts) + "\n"
    (folder / "report.md").write_text(text)
    content = {
        "trials": [asdict(trial) for trial in board.trials],
        "photographs": [asdict(trial) for trial in natural.trials] if natural else [],
        "modes": [asdict(row) for row in modes],
        "real_noise": [{"series": name, "method": method} | asdict(one) for name, method, one in real],
        "shares": {name: asdict(timing) for name, timing in timings.items()},
    }
    (folder / "measurements.json").write_text(json.dumps(content) + "\n")
    print(text)


def _natural_board(arguments: argparse.Namespace, peers: dict[str, Denoise]) -> Board | None:
    """Networks that learned from photographs, on those that were held back; None where there is no such network."""
    if not arguments.natural:
        return None
    _, held = load_split(arguments.images, load_settings(NATURAL_SPLIT).images)
    return judge(load_judged(arguments.natural), peers, subjects(held, arguments.photographs, arguments.seed), _tell)


def _protocol(images: Path, board: Board) -> list[str]:
    """The figures of the part to judge by of a split by subject."""
    try:
        split = split_by_subject(load_index(images), PHOTOGRAPHS)
    except BadInputError as error:
        return [f"Not measured: {error}."]
    trials = [trial for trial in board.trials if trial.series in split.test]
    return [page.split_sentence(split), page.merit_table(means(trials), SIGMAS)]


def _medical(images: Path) -> list[Series]:
    """All medical series, those of validation/* first."""
    learned = [name for name in load_index(images) if name.startswith("train/") and name.split("/", 1)[1] not in PHOTOGRAPHS]
    return load_series(images, "validation") + (load_series(images, "train", PHOTOGRAPHS) if learned else [])


def _real_noise(series: Sequence[Series], compared: dict[str, Denoise], path: Path) -> list[tuple[str, str, RealNoise]]:
    """Measure slices as they are; the middle one of each series is shown, denoised by the first method."""
    rows, pairs = [], []
    for one in series:
        for index, plane in enumerate(spread_slices(one, REAL_SLICES)):
            image = one.normalised(plane)
            for number, (name, denoise) in enumerate(compared.items()):
                measured, result = measure_real_noise(image, denoise)
                rows.append((f"{one.name}, slice {index}", name, measured))
                if number == 0 and index == REAL_SLICES // 2:
                    pairs.append((one.name, image, result))
        _tell(f"{one.name}: as it is")
    figures.real_crops(path, pairs)
    return rows


def _made(arguments: argparse.Namespace, board: Board, natural: Board | None, series: Sequence[Series]) -> str:
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "scikit-image")]
    if BM3D not in arguments.without and BM3D in available_peers():
        versions.append(f"bm3d {metadata.version('bm3d')}")
    networks = [one.name for one in (*board.judged, *(natural.judged if natural else ()))]
    names = ", ".join(one.name for one in series)
    return (
        f"`python -m bench.quality --slices {arguments.slices} --seed {arguments.seed}`: {names}; "
        f"networks {', '.join(networks)}; Darkroom {__version__}, python {platform.python_version()}, {', '.join(versions)}."
    )


if __name__ == "__main__":
    sys.exit(main())
