"""One recorded installation with canaries: run by the hospital's own commands at DARKROOM_LOG=DEBUG, then searched everywhere.

Places: *wires* (all messages of A, B and dealer before TLS, the metadata of every call and the text of its error, and what the
servers hand to their workers), *stores* (every file in the folders of A, B and dealer), *logs* (of all processes, and what the
commands print), *temporary files*, *processes* (command line, title and environment of every process, looked at all the time),
and the *hospital's records*, which hold keys and headers by design but no pixels.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydicom.data import get_testdata_file

from client.both_servers import connect
from client.config import HospitalConfig
from client.files import read_private
from client.images import read_image
from client.keys import read_noise_key
from client.origin import SourceImage
from client.records import load_record
from proto import darkroom_pb2 as pb
from protocols.errors import LocalProtocolError
from protocols.fixed_point import encode_image
from protocols.identifiers import ObjectId, Role
from protocols.ring import to_bytes
from security.canary_study import study_name_needles, study_text_needles, write_canary_study
from security.evaluation import Tell
from security.live import PARTIES, Site, live_site, small_model
from security.needles import Needle, key_needles, number_needles, search, text_needles
from security.stage import Stage

HEADER: Final = {
    "PatientName": "CANARY^PATIENT^NAME",
    "PatientID": "CANARY-PATIENT-ID-4711",
    "StudyDescription": "CANARY STUDY TEXT",
}
RUNS: Final = ((10, 40), (64, 64), (100, 7), (127, 120))  # row and column where eight pixels in a row are searched
RUN: Final = 8
LOOK_SECONDS: Final = 0.03  # between two looks at all processes
COMMANDS: Final = "commands"  # of the hospital: what they print is searched among the logs
NAMED: Final = ("wires", "stores", "logs", "temporary files", "processes", "hospital's records")


@dataclass(frozen=True, eq=False)
class Canaries:
    """What is searched: `never` anywhere; `session` (noise keys and grant of an object) on the wire to their server at most.

    names: of files, which the hospital's own commands print, and nobody else.
    """

    never: tuple[Needle, ...] = field(repr=False)
    pixels: tuple[Needle, ...] = field(repr=False)
    session: Mapping[str, tuple[Needle, ...]] = field(repr=False)
    names: tuple[Needle, ...] = field(repr=False, default=())


@dataclass(frozen=True, eq=False)
class Found:
    """By place: how much was searched and what showed, as "secret (encoding) in name"."""

    searched: dict[str, int]
    hits: dict[str, list[str]] = field(repr=False)
    patterns: int


def search_installation(stage: Stage, *, packings: Sequence[str], careless_client: bool, tell: Tell, engine: str) -> Found:
    """Store and denoise a canary image by the command line, once per packing, then a folder and a series, and search.

    careless_client: a client stores the image's plain words at server B too; the hospital's code runs in this process. A twin.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        image = root / "hospital-image.dcm"
        write_canary_image(image)
        temporary = root / "tmp"
        temporary.mkdir()
        with _environment(DARKROOM_LOG="DEBUG", TMPDIR=str(temporary)), watched_processes() as processes:
            with live_site(stage, small_model(), tell=tell, engine=engine) as site:
                printed: dict[str, bytes] = {}
                canaries: list[Canaries] = []
                for packing in () if careless_client else packings:
                    object_id, output = _by_command_line(site.simulation.hospital_file, image, root / f"{packing}.dcm", packing)
                    printed[f"{COMMANDS}, {packing}"] = output
                    canaries.append(canaries_of(site, object_id, image))
                if not careless_client:
                    printed[f"{COMMANDS}, a study"] = _study_by_command_line(site.simulation.hospital_file, root / "study")
                    canaries.append(Canaries(tuple(study_text_needles()), (), {}, tuple(study_name_needles())))
                if careless_client:
                    record = site.store(read_image(image).pixels)
                    site.denoise(record)
                    store_plain(site.config, read_image(image))
                    canaries.append(canaries_of(site, record.object_id, image))
                blobs = _blobs(site, stage, temporary)
                blobs["logs"] |= printed
        blobs["processes"] = {f"process {number}": blob for number, blob in enumerate(processes)}
    return found_in(blobs, canaries)


def found_in(blobs: Mapping[str, Mapping[str, bytes]], canaries: Sequence[Canaries]) -> Found:
    """Search every place for what must not be there."""
    hits: dict[str, list[str]] = {place: [] for place in blobs}
    for place, contents in blobs.items():
        for name, content in contents.items():
            for needle in search(content, _forbidden(place, name, canaries)):
                hits[place].append(f"{needle.secret} ({needle.encoding}) in {name}")
    patterns = {
        needle.pattern for c in canaries for group in (c.never, c.pixels, c.names, *c.session.values()) for needle in group
    }
    return Found({place: sum(map(len, contents.values())) for place, contents in blobs.items()}, hits, len(patterns))


def _forbidden(place: str, name: str, canaries: Sequence[Canaries]) -> list[Needle]:
    """What must not be in this place, each pattern once."""
    on_wire = {"server-a": ("A", "grant"), "server-b": ("B", "grant")}
    allowed = on_wire.get(name, ()) if place == "wires" else ()
    found: dict[bytes, Needle] = {}
    for canary in canaries:
        groups = [canary.pixels]
        if place != "hospital's records":
            groups += [canary.never, *(needles for secret, needles in canary.session.items() if secret not in allowed)]
            groups += [] if place == "logs" and name.startswith(COMMANDS) else [canary.names]
        found |= {needle.pattern: needle for group in groups for needle in group}
    return list(found.values())


def write_canary_image(path: Path) -> None:
    """The small CT of pydicom with names of our own and noise on every pixel, so that no run of pixels is common."""
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    noise = np.random.default_rng(7).integers(0, 900, (dataset.Rows, dataset.Columns))
    dataset.PixelData = (dataset.pixel_array.astype(np.int64) + noise).astype("<i2").tobytes()
    for keyword, text in HEADER.items():
        setattr(dataset, keyword, text)
    dataset.save_as(path)


def canaries_of(site: Site, object_id: ObjectId, image: Path) -> Canaries:
    """The secrets of this installation and object, in every encoding."""
    config = site.config
    record = load_record(config.objects, object_id)
    master = read_noise_key(site.simulation.site.noise_key).value
    signing = load_pem_private_key(read_private(site.simulation.site.signing_key, "the signing key"), password=None)
    if not isinstance(signing, Ed25519PrivateKey):
        raise TypeError("the signing key is an Ed25519 key")
    never = key_needles("noise master key", master) + key_needles("signing key", signing.private_bytes_raw())
    for keyword, text in HEADER.items():
        never += text_needles(keyword, text)
    never += number_needles("weights", site.model.weights["last.weight"].flatten()[3 : 3 + RUN].tolist())
    session = {role.value: tuple(key_needles(f"noise key of {role.value}", record.keys.of(role))) for role in Role if record.keys}
    session["grant"] = tuple(text_needles("grant", record.grant))
    return Canaries(tuple(never), tuple(pixel_needles(image)), session)


def pixel_needles(image: Path) -> list[Needle]:
    """Four runs of eight pixels, normalised and as stored."""
    pixels = read_image(image).pixels
    stored = pydicom.dcmread(image).pixel_array
    out: list[Needle] = []
    for row, column in RUNS:
        part = np.s_[row, column : column + RUN]
        out += number_needles(f"pixels at {row}, {column}", pixels[part].tolist(), stored=stored[part].tolist())
    return out


def store_plain(config: HospitalConfig, image: SourceImage) -> None:
    """The twin's client: no packing noise, no sharing. Server B gets the image."""
    words = to_bytes(encode_image(image.pixels))
    size = pb.Size(height=image.height, width=image.width)
    header = pb.StoreHeader(object_id=str(ObjectId.fresh()), size=size, packing=pb.PACKING_KEYED)
    with connect(config, config.require_client().identity) as connections:
        messages = (pb.StoreRequest(header=header), pb.StoreRequest(chunk=words))
        connections[Role.B].stub.Store(iter(messages), timeout=30.0)


@contextmanager
def watched_processes() -> Generator[set[bytes]]:
    """Command line, title and environment of us and of every process under us, gathered all through the block."""
    seen: set[bytes] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_SECONDS):
            for process in _family():
                for name in ("cmdline", "environ", "comm"):
                    try:
                        seen.add((process / name).read_bytes())
                    except OSError:
                        continue  # it has ended

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _family() -> list[Path]:
    """Ourselves and all descendants, from the parent numbers in /proc (proc(5))."""
    parents: dict[int, int] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return [Path(f"/proc/{number}") for number in family]


@contextmanager
def _environment(**values: str) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _by_command_line(config: Path, image: Path, result: Path, packing: str) -> tuple[ObjectId, bytes]:
    """`darkroom store` and `darkroom denoise`, and all that they printed. Raises LocalProtocolError where one of them fails."""
    extra = () if packing == "keyed" else ("--packing-sigma", "20")
    stored = _command("store", str(image), "--sigma", "10", "--packing", packing, *extra, "--config", str(config))
    object_id = ObjectId(stored.stdout.decode().split()[-1])
    opened = _command("denoise", str(object_id), "-o", str(result), "--model", "small", "--config", str(config))
    return object_id, b"".join((stored.stdout, stored.stderr, opened.stdout, opened.stderr))


def _study_by_command_line(config: Path, study: Path) -> bytes:
    """`darkroom denoise` of a folder and of a series, and all that they printed. Raises LocalProtocolError."""
    write_canary_study(study, HEADER)
    options = ("--sigma", "10", "--model", "small", "--config", str(config))
    batch = _command("denoise", str(study / "batch"), "-o", str(study / "batch-out"), *options)
    series = _command("denoise", str(study / "series"), "-o", str(study / "series-out"), "--series", *options)
    return b"".join((batch.stdout, batch.stderr, series.stdout, series.stderr))


def _command(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    packages = os.pathsep.join(filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "darkroom", "--debug", *arguments]
    ended = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": packages}, check=False)
    if ended.returncode:
        last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise LocalProtocolError(f"`darkroom {arguments[0]}` ended with {ended.returncode}: {last:.200}")
    return ended


def _blobs(site: Site, stage: Stage, temporary: Path) -> dict[str, dict[str, bytes]]:
    """What there is in every place, by name."""
    installation = site.simulation.site
    folders = [installation.folder(party) for party in PARTIES]
    return {
        "wires": {party: recorded(stage, party) for party in PARTIES},
        "stores": {str(path.relative_to(installation.root)): content for folder in folders for path, content in _files(folder)},
        "logs": {path.name: content for path, content in _files(installation.logs)},
        "temporary files": {path.name: content for path, content in _files(temporary)},
        "hospital's records": {path.name: content for path, content in _files(installation.objects)},
    }


def recorded(stage: Stage, party: str) -> bytes:
    """Everything that a party received and sent: messages, and the metadata of the calls that it answered.

    Raises LocalProtocolError: nothing of one kind was recorded, so that a search of it would say nothing.
    """
    contents = {kind: (stage.folder / f"{party}.{kind}").read_bytes() for kind in ("rec", "metadata")}
    for kind, content in contents.items():
        if not content:
            raise LocalProtocolError(f"{party}.{kind} is empty: nothing was recorded that could be searched")
    return b"".join(contents.values())


def _files(folder: Path) -> list[tuple[Path, bytes]]:
    return [(path, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()]
