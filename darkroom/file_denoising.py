"""From a file to a result: store, open and delete each of its planes, and write what came out: whole, or not at all.

The one way for a single file, a folder (`darkroom.batch`) and a PACS (`darkroom.pacs`). What both servers see is the same
whatever the edge finds in a result (DESIGN section 1): a result that fails its check is told of only when every plane has been
stored, opened and deleted; and a deletion that fails is a note, never an error that somebody would answer with another attempt,
because after a refused result nobody may.
"""

from pathlib import Path

from client import edge
from client.config import HospitalConfig
from client.dicom_anonymous import CANNOT
from client.images import check_stack_output, read_stack, write_stack
from client.origin import Origin
from darkroom.output import Teller
from darkroom.planes import denoise_planes
from darkroom.store_options import StoreOptions


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
    results = denoise_planes(config, stack, model, options, stages, wait)
    write_stack(output, [each.pixels for each in results], stack, [each.provenance for each in results], options.derivation)
    stages.tell("edge", f"wrote {output}")
    if options.derivation.anonymous:
        stages.tell("note", CANNOT)
    return edge.combined(results), stack.plane(0).origin
