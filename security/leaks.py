"""Evaluation: does anything leak sideways? Canaries are searched in wires, stores, logs, temporary files and processes.

Also: the number of operations and bytes does not depend on the pixels, and every type that holds a secret shows nothing.
"""

import tempfile
from pathlib import Path
from typing import Final

import torch

from security.evaluation import Check, Evaluation, Outcome, Setting
from security.leak_search import NAMED, Found, search_installation
from security.live import flat_image, live_site, phantom_image, small_model
from security.secret_types import KEY, CarelessKey, bearers, canary_needles, shown, tried
from security.stage import Fault, Stage
from security.staged_worker import COUNTS_FILE
from security.structure import Structure, difference, structure
from security.views import crop

SIDE: Final = 24
PACKINGS: Final = ("keyed", "gaussian", "blind")
QUICK_PACKINGS: Final = ("keyed",)
CLAIMS: Final = {
    "wires": "No pixel, header text, weight, master or signing key, or the other server's noise key is in any message",
    "stores": "Nothing of an image, its header, keys, grant or weights is in the files of A, B and dealer",
    "logs": "Nothing of them is in any log at DEBUG, or in what the commands print",
    "temporary files": "Nothing of them is left in temporary files",
    "processes": "Nothing of them is in the command line, title or environment of any process, the hospital's included",
}
TWINS: Final = {
    "wires": "a client that stores the plain image at server B",
    "stores": "a client that stores the plain image at server B",
    "logs": "a server that logs the noise key and the grant it is sent",
    "temporary files": "a server that writes the noise key to a temporary file",
    "processes": "a server that passes the noise key to another program on its command line",
}


def evaluate(setting: Setting) -> Evaluation:
    """Item 7 of the security evaluation. Run by whoever reviews."""
    packings = QUICK_PACKINGS if setting.quick else PACKINGS
    found = _installation(Fault.NONE, packings, setting)
    careless = _installation(Fault.CARELESS, ("keyed",), setting)
    checks = [_search_check(place, found, careless) for place in NAMED if place in TWINS]
    return Evaluation(
        title="Nothing leaks sideways",
        question="Are pixels, headers, keys or weights in any file, log, message or process where they do not belong?",
        checks=(*checks, _work_check(setting), _types_check()),
        text=_text(found, packings),
    )


def _installation(fault: Fault, packings: tuple[str, ...], setting: Setting) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), fault)
        found = search_installation(
            stage, packings=packings, careless_client=fault is Fault.CARELESS, tell=setting.tell, engine=setting.engine
        )
    setting.tell(f"searched {sum(found.searched.values()) / 1e6:.1f} MB, {fault.value}")
    return found


def _search_outcome(place: str, found: Found) -> Outcome:
    hits = found.hits[place]
    size = found.searched[place]
    text = f"{len(hits)} found, the first: {hits[0]}" if hits else f"nothing in {size} bytes"
    return Outcome(
        not hits, f"{text}; {found.patterns} patterns", {"bytes": size, "found": len(hits), "patterns": found.patterns}
    )


def _search_check(place: str, found: Found, careless: Found) -> Check:
    return Check(
        claim=CLAIMS[place],
        assumption="accidents, not intent: plain encodings only (no compression, no encoding made to hide)",
        ours=_search_outcome(place, found),
        twin=TWINS[place],
        broken=_search_outcome(place, careless),
        error_rate="a pattern has at least 6 bytes, most over 16: by chance under one in a million for all of the search",
    )


def _work(images: list[torch.Tensor], setting: Setting) -> list[tuple[str, Structure]]:
    """What each session cost at both servers: tensor operations with all shapes, in order; and the structure of all messages."""
    out = []
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), counted=True)
        with live_site(stage, small_model(), tell=setting.tell, engine=setting.engine) as site:
            for image in images:
                counts = stage.folder / COUNTS_FILE
                counts.unlink(missing_ok=True)
                view = site.session(image)
                out.append((_both_counts(counts), structure(view)))
    return out


def _both_counts(path: Path) -> str:
    """One line for each server, in no order: their workers end when they end."""
    return "; ".join(sorted(path.read_text().splitlines()))


def _work_check(setting: Setting) -> Check:
    noise = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images = [flat_image(SIDE), torch.zeros_like(noise), noise, phantom_image(SIDE)]
    work = _work([*images, crop(images[0]), crop(images[3])], setting)
    ours, cropped = _work_outcome(work[: len(images)]), _work_outcome(work[len(images) :])
    return Check(
        claim="Neither the operations of the servers nor the bytes they send depend on the pixels",
        assumption="operations are counted as PyTorch's, with shapes; what a processor does inside one is not looked at",
        ours=ours,
        twin="a client that crops the dark background away before it stores",
        broken=cropped,
        error_rate="none: exact",
    )


def _work_outcome(work: list[tuple[str, Structure]]) -> Outcome:
    counts = {count for count, _ in work}
    changed = next((text for _, found in work[1:] if (text := difference(work[0][1], found))), "")
    operations = work[0][0].split()[0]
    same = len(counts) == 1 and not changed
    measured = f"{len(work)} images: {operations} tensor operations in one order with one sequence of shapes, all messages alike"
    return Outcome(
        same, measured if same else f"{len(counts)} different sequences of operations; {changed}", {"images": len(work)}
    )


def _types_check() -> Check:
    needles = canary_needles()
    instances = list(bearers())
    found = [line for instance in instances for line in shown(instance, needles)]
    twin = shown(CarelessKey(KEY), needles)
    packages = ", ".join(f"{count} in {package}" for package, count in tried(instances).items())
    return Check(
        claim="No type that holds a secret shows it: printed, formatted, logged or pickled",
        assumption="types are found by their fields, messages by `debug_redact`; explicit converters are not looked at",
        ours=Outcome(
            not found, found[0] if found else f"{len(instances)} types ({packages}): nothing shows, pickling is refused"
        ),
        twin="a key in a plain dataclass",
        broken=Outcome(not twin, f"{len(twin)} of 5 forms show it, the first: {twin[0]}" if twin else "nothing shows"),
        error_rate="none: exact",
    )


def _text(found: Found, packings: tuple[str, ...]) -> str:
    rows = "\n".join(f"| {place} | {found.searched[place]:,} | {len(found.hits[place])} |" for place in NAMED)
    return f"""
A DICOM image with canaries (names in its header, noise on every pixel) was stored and denoised by `darkroom store` and
`darkroom denoise` ({", ".join(packings)} packing) on live parties, all at `DARKROOM_LOG=DEBUG`; then a folder of images and a
DICOM series, with canaries in the names of files and folders and in the texts of a NIfTI header. Searched for: four runs of
eight pixels, the texts of DICOM and NIfTI headers, these names (which the hospital's commands print, and nobody else), the
noise master key, the signing key, a run of weights, and the object's noise keys and grant: {found.patterns} patterns, each
secret in raw bytes, hex, base64 at all alignments, UTF-8 and UTF-16, both byte orders of float and fixed point, and as printed
numbers.

| place | bytes searched | found |
|---|---|---|
{rows}

*Wires* are the messages before TLS, the metadata of every call and the text of its error, and what a server hands its worker:
more than a tap on the network would show. There the noise key of A is allowed at A, that of B at B, and the grant at both, as
the protocol has it; nowhere else. `TMPDIR` pointed to an empty folder; memory, swap and core files were not searched (workers
forbid core files; swap is the operator's to encrypt).

**What this does not show.** A search finds accidents in plain encodings; it does not find a compressed or disguised copy.
Protobuf's explicit converters (`text_format`, `json_format`) show a message's secret fields when they are asked to: no code
asks them. Records of the hospital hold keys, headers and file names by design (mode 0600) and
were searched for pixels only.
""".strip()
