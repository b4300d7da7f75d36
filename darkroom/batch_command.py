"""`darkroom denoise DIR`: read the configuration, find the images, run the batch, show the summary."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from client.both_servers import connect, greet
from client.config import HospitalConfig, load_config
from darkroom.batch import BUSY_SECONDS, Batch, Plan, State, Summary
from darkroom.batch_files import find_images
from darkroom.batch_manifest import open_manifest
from darkroom.batch_view import BatchView, summary_json, summary_lines
from darkroom.error_report import told_as_json
from darkroom.file_denoising import denoise_file
from darkroom.output import Teller, err, result_line, write_json
from darkroom.store_options import StoreOptions
from proto.exit_codes import exit_code_of
from protocols.errors import BadInputError, DarkroomError, NotFoundError


def run_denoise_folder(
    config_file: Path,
    folder: Path,
    output: Path,
    model: str,
    options: StoreOptions,
    json_path: str | None,
    *,
    jobs: int,
    redo: bool,
) -> None:
    """Denoise every image under a folder; exit with the code that the summary says.

    Raises DarkroomError: what concerns every image. KeyboardInterrupt: after the summary.
    """
    with told_as_json(json_path, makes=output):
        summary, plan = _denoised(config_file, folder, output, model, options, jobs=jobs, redo=redo)
    _show(summary, plan, json_path)


def _denoised(
    config_file: Path, folder: Path, output: Path, model: str, options: StoreOptions, *, jobs: int, redo: bool
) -> tuple[Summary, Plan]:
    config = load_config(config_file)
    config = config if options.key is None else config.with_noise_key(options.key)
    images = find_images(folder, output)
    if not any(image.output for image in images):
        raise BadInputError(f"{folder} holds no image: none of its {len(images)} files can be denoised")
    deciding = deciding_options(model, options)
    with open_manifest(output) as manifest, BatchView(err(), len(images)) as view:
        whole = replace(options, derivation=manifest.derivation(deciding, anonymous=options.derivation.anonymous))

        def denoise(source: Path, target: Path, teller: Teller) -> None:
            denoise_file(config, source, target, model, whole, teller, wait=BUSY_SECONDS)

        plan = Plan(
            folder=folder,
            output=output,
            options=deciding,
            denoise=denoise,
            check=lambda: require_model(config, model),
            redo=redo,
            jobs=jobs,
        )
        return Batch(plan, manifest, view).run(images), plan


def require_model(config: HospitalConfig, model: str) -> None:
    """Raises DarkroomError: an identity or key is unusable, a server does not answer or know us, or has no such model."""
    client = config.require_client()
    config.require_edge()
    with connect(config, client.identity) as connections:
        for connection in connections.values():
            if model not in {entry.name for entry in greet(connection).models}:
                raise NotFoundError(
                    f"{connection.name} holds no model {model!r}: `darkroom model list` shows what there is,"
                    " `darkroom model push` brings one"
                )


def deciding_options(model: str, options: StoreOptions) -> dict[str, Any]:
    """What decides on a result: not the key file and the window, under which it comes out the same."""
    return {
        "model": model,
        "packing": options.packing,
        "packing_sigma": options.packing_sigma,
        "sigma": options.sigma,
        "anonymous": options.derivation.anonymous,
        "engine": options.engine,
    }


def _show(summary: Summary, plan: Plan, json_path: str | None) -> None:
    try:
        result_line("\n".join(summary_lines(summary)), json_path)
        write_json(summary_json(summary, plan), json_path)
    except DarkroomError as error:
        if not summary.interrupted and summary.error is None:
            raise
        err().print(f"note: {error}", markup=False)  # not in place of what the batch ended with
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.stopped is not None:
        raise summary.stopped
    failed = summary.of(State.FAILED)
    if failed and summary.error is not None:
        raise SystemExit(exit_code_of(summary.error))
