"""From a file to a result: store, open and delete each of its planes, and write what came out: whole, or not at all.

The one way for a single file, a folder (`darkroom.batch`) and a PACS (`darkroom.pacs`). What both servers see is the same
whatever the edge finds in a result (DESIGN section 1): a result that fails its check is told of only when every plane has been
stored, opened and deleted; and a deletion that fails is a note, never an error that somebody would answer with another attempt,
because after a refused result nobody may.
"""

import contextlib
from collections.abc import Generator
from functools import partial
from pathlib import Path

from client import acquisition, edge
from client.config import HospitalConfig
from client.dicom_anonymous import CANNOT
from client.images import check_stack_output, read_stack, write_stack
from client.origin import ImageStack, Origin, SourceImage
from client.progress import Step
from client.records import ObjectRecord
from client.waiting import patiently
from darkroom.output import Teller
from darkroom.store_options import StoreOptions
from darkroom.uninterrupted import uninterrupted
from protocols.errors import DarkroomError, IntegrityError


def denoise_file(
    config: HospitalConfig, file: Path, output: Path, model: str, options: StoreOptions, stages: Teller, *, wait: float = 0.0
) -> tuple[edge.Denoised, Origin]:
    """Denoise one file or one series and write the result.

    wait: seconds in which a busy server is asked again, for each plane. Of several planes, the costs are those of all, and the
    origin is the first one's. Raises IntegrityError: the result of a plane failed its check; nothing is written. DarkroomError.
    """
    config.require_edge()  # what would fail after storing fails before
    stack = read_stack(file)
    check_stack_output(output, stack, anonymous=options.derivation.anonymous)
    results = _denoise_planes(config, stack, model, options, stages, wait)
    write_stack(output, [each.pixels for each in results], stack, [each.provenance for each in results], options.derivation)
    stages.tell("edge", f"wrote {output}")
    if options.derivation.anonymous:
        stages.tell("note", CANNOT)
    return edge.combined(results), stack.plane(0).origin


def _denoise_planes(
    config: HospitalConfig, stack: ImageStack, model: str, options: StoreOptions, stages: Teller, wait: float
) -> list[edge.Denoised]:
    """All planes, also after one whose result failed its check: stopping there would show a server that it had failed.

    Any other error ends the work at once, and is raised whether or not a result had failed before.
    """
    results: list[edge.Denoised] = []
    refused: IntegrityError | None = None
    for number, image in enumerate(stack, start=1):
        if stack.count > 1:
            stages.tell("client", f"plane {number} of {stack.count}")
        try:
            results.append(_denoise_plane(config, image, model, options, stages, wait))
        except IntegrityError as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return results


def _denoise_plane(
    config: HospitalConfig, image: SourceImage, model: str, options: StoreOptions, stages: Teller, wait: float
) -> edge.Denoised:
    store = partial(
        acquisition.store,
        config,
        image,
        packing=options.mode,
        packing_sigma=options.packing_sigma,
        sigma=options.sigma,
        window=options.duration,
        progress=stages,
    )
    record = patiently(store, wait, stages)  # each attempt under a fresh nonce and id
    with deleting(config, record, stages):
        opened = partial(edge.denoise, config, record.object_id, model=model, engine=options.engine, progress=stages)
        return patiently(opened, wait, stages)


@contextlib.contextmanager
def deleting(config: HospitalConfig, record: ObjectRecord, stages: Teller) -> Generator[None]:
    """Delete the object at the end, however the block ends. A deletion that fails is told, and the record stays."""

    def deleted(step: Step) -> None:
        stages.tell(step.who, step.stage)  # not `stages(step)`, which may end the work: a deletion goes on to its end

    try:
        yield
    finally:
        with uninterrupted():
            try:
                acquisition.delete(config, record.object_id, progress=deleted)
            except DarkroomError as error:
                stages.tell("note", str(error))
