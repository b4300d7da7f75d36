"""What each command does: read the configuration, call the hospital's library, show the result."""

import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from client import acquisition, edge, model_owner, records
from client.config import HospitalConfig, load_config
from client.dicom_anonymous import CANNOT
from client.dncnn_file import import_dncnn
from client.doctor import check
from client.files import PRIVATE_MODE, read_private, replacing
from client.grants import issue_grant, parse_window
from client.images import check_output, read_stack, write_result
from client.keys import create_noise_key, read_noise_key
from client.model_file import MODEL_SUFFIX, load_model, model_bytes
from client.origin import ImageStack, Origin, SourceImage, detached
from client.profile import LayerProfile, layer_profile
from client.records import ObjectRecord
from client.report import build_report
from client.waiting import patiently
from darkroom import __version__
from darkroom.error_report import told_as_json
from darkroom.file_denoising import denoise_file
from darkroom.output import STDOUT, Stages, err, err_table, result_line, result_table, write_json
from darkroom.plan_command import profile_table
from darkroom.sample import write_sample
from darkroom.simulation import Simulation, find_model, shipped_models, simulation
from darkroom.store_options import StoreOptions
from proto.checks import exit_code, passed
from protocols.errors import BadInputError, DarkroomError, NotFoundError
from protocols.identifiers import Identifier
from protocols.packing import PackingMode, gaussian_leakage_bits, region_leakage_bits

MEASURING_SEED: Final = 0
SHOWN_SIDE: Final = 512
REGION_SIDE: Final = 32  # pixels: an organ's detail, on most modalities


def run_up(folder: Path) -> None:
    """Run the simulation until it is interrupted. Raises DarkroomError."""
    console = err()
    with simulation(folder, tell=lambda line: console.print(line, markup=False)) as running:
        push_models(running, shipped_models())
        result_line(f"ready: {running.hospital_file}", None)
        console.print(f"Try: darkroom doctor --config {running.hospital_file}    (Ctrl-C stops everything)", markup=False)
        running.processes.wait()


def run_sample(file: Path, json_path: str | None) -> None:
    """Write the sample image and print where. Raises DarkroomError."""
    write_sample(file)
    result_line(str(file), json_path)
    write_json({"file": str(file)}, json_path)


def push_models(running: Simulation, models: list[Path]) -> None:
    """Push model files under the model owner's identity. Raises DarkroomError."""
    config = load_config(running.model_owner_file)
    with Stages(err()) as stages:
        for path in models:
            model_owner.push_model(config, load_model(path), progress=stages)


def run_store(config_file: Path, file: Path, options: StoreOptions, json_path: str | None, *, frame: int | None = None) -> None:
    """Store one image, or every plane of one, and print each id as soon as it is stored. frame: from 1; this plane alone.

    Raises DarkroomError: what was stored by then stays. Its ids are on standard output or, where they did not get there, on
    standard error, and in the error that `--json` asks for.
    """
    stored: list[dict[str, Any]] = []
    printed = 0
    with told_as_json(json_path) as done, Stages(err()) as stages:
        try:
            config = _with_key(load_config(config_file), options.key)
            for image in _chosen(read_stack(file), frame, file):
                record, leakage = _store(config, image, options, stages)
                stored.append({**_describe(record), "leakage_bits_per_pixel": leakage or None})
                result_line(str(record.object_id), json_path)
                printed += json_path != STDOUT
            write_json(stored[0] if len(stored) == 1 else {"objects": stored}, json_path)
        except (DarkroomError, KeyboardInterrupt):
            for each in stored[printed:]:
                stages.tell("note", f"stored all the same: {each['object_id']}")
            if stored:
                done["objects"] = stored
            raise


def _chosen(stack: ImageStack, frame: int | None, file: Path) -> Generator[SourceImage]:
    """The planes to store. One of several frames goes by itself; a series' slice is a file by itself already."""
    if frame is not None and not 1 <= frame <= stack.count:
        several = f"{stack.count} planes: --frame is a number from 1 to {stack.count}"
        held = "one plane: --frame is 1" if stack.count == 1 else several
        raise BadInputError(f"{file} has {held}, got {frame}")
    for index in range(stack.count) if frame is None else (frame - 1,):
        image = stack.plane(index)
        yield image if stack.count == 1 or stack.files else detached(image)


def _store(
    config: HospitalConfig, image: SourceImage, options: StoreOptions, stages: Stages
) -> tuple[ObjectRecord, dict[str, float]]:
    record = acquisition.store(
        config,
        image,
        packing=options.mode,
        packing_sigma=options.packing_sigma,
        sigma=options.sigma,
        window=options.duration,
        progress=stages,
    )
    leakage = _leakage(image.pixels, record)
    if leakage:
        stages.tell(
            "note",
            f"{record.packing.value} noise of {record.packing_sigma * 255:.3g}/255: whoever steals both shares learns up to"
            f" {leakage['image']:.2g} bits a pixel, {leakage['worst_region']:.2g} in the richest region",
        )
    return record, leakage


def run_denoise(
    config_file: Path,
    source: str,
    output: Path,
    model: str,
    options: StoreOptions,
    json_path: str | None,
    *,
    series: bool = False,
    wait: float = 0.0,
    profile: bool = False,
) -> None:
    """Open an object, or store, open and delete a file or series, and write the result. Raises DarkroomError.

    wait: seconds in which a busy server is asked again. profile: show where the servers' time went.
    """
    config = load_config(config_file)
    path = Path(source)
    if path.is_dir() is not series:
        what = "is a folder: add --series if it is one DICOM series" if path.is_dir() else "is no folder, so no --series"
        raise BadInputError(f"{source} {what}")
    if is_object(source) and not series:
        denoised, origin = _denoise_object(config, source, output, model, options, wait)
    elif path.exists():
        with Stages(err()) as stages:
            denoised, origin = denoise_file(_with_key(config, options.key), path, output, model, options, stages, wait=wait)
    else:
        raise BadInputError(f"{source!r} is neither an object id (32 hex digits, as `darkroom store` prints) nor a file")
    _show_denoised(denoised, origin, output, json_path, _profile(config, denoised) if profile else None)


def is_object(source: str) -> bool:
    """Whether what `denoise` is given has the form of an object id; else it is a file or folder."""
    return Identifier.PATTERN.fullmatch(source) is not None


def _denoise_object(
    config: HospitalConfig, object_id: str, output: Path, model: str, options: StoreOptions, wait: float
) -> tuple[edge.Denoised, Origin]:
    record = records.load_stored(config.objects, records.parse_object_id(object_id))
    origin = records.load_origin(config.objects, record)
    check_output(output, origin, anonymous=options.derivation.anonymous)
    master_key = None if options.key is None else read_noise_key(options.key)
    with Stages(err()) as stages:
        attempt = partial(
            edge.denoise,
            config,
            record.object_id,
            model=model,
            sigma=options.sigma,
            master_key=master_key,
            engine=options.engine,
        )
        denoised = patiently(partial(attempt, progress=stages), wait, stages)
        write_result(output, denoised.pixels, origin, denoised.provenance, options.derivation)
        if options.derivation.anonymous:
            stages.tell("note", CANNOT)
    return denoised, origin


def _profile(config: HospitalConfig, denoised: edge.Denoised) -> list[LayerProfile] | None:
    """Where the servers' time went; None, and why, where they do not say it. The result is written by now: no error."""
    try:
        networks = {model.name: model.network for model in model_owner.list_models(config)}
        if denoised.model not in networks:
            raise NotFoundError(f"the servers hold no model {denoised.model!r} any more")
        return layer_profile(denoised, networks[denoised.model])
    except DarkroomError as error:
        err().print(f"no profile: {error}", markup=False)
        return None


def run_delete(config_file: Path, object_id: str, json_path: str | None) -> None:
    """Delete one object. Raises DarkroomError."""
    config = load_config(config_file)
    with Stages(err()) as stages:
        acquisition.delete(config, object_id, progress=stages)
    result_line(f"deleted {object_id}", json_path)
    write_json({"object_id": object_id, "deleted": True}, json_path)


def run_doctor(config_file: Path, json_path: str | None) -> None:
    """Show all checks; exit with the failed kind's code. Raises DarkroomError: the configuration itself is unusable."""
    results = check(load_config(config_file))
    for result in results:
        result_line("\n".join(result.lines()), json_path)
    write_json({"ok": passed(results), "checks": [vars(result) for result in results]}, json_path)
    if not passed(results):
        raise SystemExit(exit_code(results))


def run_model_push(config_file: Path, name: str, json_path: str | None) -> None:
    """Push one model and print its push id. Raises DarkroomError."""
    config = load_config(config_file)
    model = load_model(find_model(name))
    with Stages(err()) as stages:
        push = model_owner.push_model(config, model, progress=stages)
    result_line(str(push), json_path)
    write_json({"name": model.name, "push_id": str(push)}, json_path)


def run_model_list(config_file: Path, json_path: str | None) -> None:
    """List the models at the servers. Raises DarkroomError."""
    models = model_owner.list_models(load_config(config_file))
    table = Table("model", "layers", "weights", "push", box=None, pad_edge=False)
    for model in models:
        push = str(next(iter(model.push_ids.values()))) if model.complete else "servers A and B differ: push it again"
        table.add_row(model.name, str(len(model.network.layers)), str(_weights(model)), push)
    result_table(table, json_path)
    listed = [
        {
            "name": model.name,
            "push_ids": {role.value: str(push) for role, push in model.push_ids.items()},
            "complete": model.complete,
            "layers": len(model.network.layers),
            "weights": _weights(model),
        }
        for model in models
    ]
    write_json({"models": listed}, json_path)


def run_import_dncnn(file: Path, output: Path, json_path: str | None) -> None:
    """Write a model file of a DnCNN's state dict, and print where. Raises DarkroomError."""
    if output.suffix != MODEL_SUFFIX:
        raise BadInputError(f"{output}: a model file ends in {MODEL_SUFFIX}, and its name is the model's")
    with Stages(err()) as stages:
        stages.tell("model owner", f"measuring the wires of {file} on hostile images")
        rng = np.random.default_rng(MEASURING_SEED)  # noqa: TID251 - nothing secret; the same file gives the same model
        imported = import_dncnn(file, rng)
        with replacing(output) as written:
            written.write(model_bytes(imported.network, imported.weights, bound=imported.bound, source=file.name))
        ranged, flags = imported.ranged, imported.ranged.expected_flags(SHOWN_SIDE, SHOWN_SIDE)
        stages.tell(
            "model owner",
            f"{imported.depth} convolutions; {imported.network.weight_frac_bits} bits after the point in weights change noisy"
            f" phantoms by up to {imported.weight_error:.1e}, {ranged.frac_bits} in wires by {ranged.error:.1e}; {flags:.1e}"
            f" repetitions to expect at {SHOWN_SIDE}x{SHOWN_SIDE}",
        )
    result_line(str(output), json_path)
    result = {
        "model": str(output),
        "convolutions": imported.depth,
        "weight_frac_bits": imported.network.weight_frac_bits,
        "wire_frac_bits": ranged.frac_bits,
        "weight_error": imported.weight_error,
        "rounding_error": ranged.error,
        "bound": imported.bound,
        "expected_flags_512": flags,
    }
    write_json(result, json_path)


def run_key_new(file: Path, json_path: str | None) -> None:
    """Make a noise master key and print where. Raises ConfigurationError: the file exists."""
    create_noise_key(file)
    result_line(str(file), json_path)
    write_json({"file": str(file)}, json_path)


def run_key_export(config_file: Path, object_id: str, output: Path | None, window: str | None, json_path: str | None) -> None:
    """Write the record of one object with a fresh grant: put it into the other edge's folder of object records.

    Beside it goes what lies beside the record, such as a DICOM header. Without `output` the record itself is the result, on
    standard output, which `json_path` then does not name. Raises DarkroomError.
    """
    config = load_config(config_file)
    client = config.require_client()
    record = records.load_stored(config.objects, records.parse_object_id(object_id))
    duration = config.window if window is None else parse_window(window)
    grant = issue_grant(client.signing_key, record.object_id, config.edge_name, duration)
    exported = ObjectRecord(**{**vars(record), "grant": grant})
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        records.save_record(Path(folder), exported)
        content = read_private(Path(folder) / f"{record.object_id}.json", "the object record")
    written: list[str] = []
    if output is None:
        result_line(content.decode().removesuffix("\n"), None)
    else:
        with replacing(output, mode=PRIVATE_MODE) as file:
            file.write(content)
        written.append(str(output))
        for companion in records.companions(config.objects, record.object_id):
            beside = output.with_suffix(companion.suffix)
            with replacing(beside, mode=PRIVATE_MODE) as file:
                file.write(read_private(companion, "a file beside the object record,"))
            written.append(str(beside))
        result_line(str(output), json_path)
    write_json({"object_id": str(record.object_id), "files": written}, json_path)


def _show_denoised(
    denoised: edge.Denoised, origin: Origin, output: Path, json_path: str | None, profile: list[LayerProfile] | None
) -> None:
    height, width = denoised.pixels.shape
    planes = f"{denoised.planes} planes of " if denoised.planes > 1 else ""
    err().print(
        f"{planes}{height}x{width}, {denoised.mode.value}, model {denoised.model}: {denoised.online_seconds:.2f} s online,"
        f" {denoised.offline_seconds:.2f} s before the image was needed",
        markup=False,
    )
    if profile is not None:
        err_table().print(profile_table(profile))
    result_line(str(output), json_path)
    report = build_report(denoised, origin, version=__version__)
    write_json(report if profile is None else {**report, "profile": [layer.to_json() for layer in profile]}, json_path)


def _describe(record: ObjectRecord) -> dict[str, Any]:
    """What is public about an object, and the noise levels. Sigmas in 1/255 of the range, as on the command line."""
    return {
        "object_id": str(record.object_id),
        "height": record.height,
        "width": record.width,
        "packing": record.packing.value,
        "packing_sigma": record.packing_sigma * 255.0,
        "sigma": record.sigma * 255.0,
    }


def _leakage(pixels: Tensor, record: ObjectRecord) -> dict[str, float]:
    """Bits per pixel that Gaussian noise leaves to whoever holds both shares; nothing for keyed packing, where it is none."""
    if record.packing is PackingMode.KEYED:
        return {}
    regions = region_leakage_bits(pixels, record.packing_sigma, side=REGION_SIDE)
    variance = float(torch.var(pixels.double(), correction=0))
    return {"image": gaussian_leakage_bits(variance, record.packing_sigma), "worst_region": float(regions.max())}


def _weights(model: model_owner.ListedModel) -> int:
    return sum(int(torch.Size(shape).numel()) for shape in model.network.parameter_shapes().values())


def _with_key(config: HospitalConfig, key: Path | None) -> HospitalConfig:
    return config if key is None else config.with_noise_key(key)
