"""Object records: what the hospital keeps of a stored object. One JSON file per object, mode 0600, never half written.

A record is a secret: it holds the object's noise keys and grant. Beside it, mode 0600 too, lies what a result's file needs:
the DICOM header (`<id>.dcm`), the header of another form (`<id>.header`), and pixels that are no part of the picture
(`<id>.kept`, an .npz). None of them leaves the hospital; an edge elsewhere in it gets a copy of all.
"""

import enum
import io
import json
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from client.dicom import load_header, serialise_header
from client.files import PRIVATE_MODE, read_private, replacing
from client.origin import MAX_PIXELS, MIN_IMAGE_SIDE, KeptPixels, Kind, Normalisation, Origin
from protocols.errors import BadInputError, ConfigurationError, LocalProtocolError, NotFoundError, RemoteProtocolError
from protocols.identifiers import ObjectId
from protocols.packing import NoiseKeys, PackingMode
from protocols.unpicklable import Unpicklable

FORMAT: Final = 1
_DICOM: Final = ".dcm"
_HEADER: Final = ".header"
_KEPT: Final = ".kept"
# What a file that is no record raises; RecursionError: thousands of nested brackets.
_DAMAGED: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    RemoteProtocolError,
    LocalProtocolError,
)


class RecordState(enum.Enum):
    """How far storing came."""

    PENDING = "pending"  # written before the servers are asked, so that nothing they hold is ever unknown here
    STORED = "stored"


@dataclass(frozen=True, eq=False)
class ObjectRecord(Unpicklable):
    """One stored object, as the hospital knows it. Size and mode are public; repr shows no more."""

    object_id: ObjectId
    state: RecordState
    height: int
    width: int
    packing: PackingMode
    packing_sigma: float  # standard deviation, unit of the normalised range; 0 for keyed
    sigma: float = field(repr=False)  # acquisition noise, the same unit
    kind: Kind
    bits: int
    name: str = field(repr=False)
    normalisation: Normalisation = field(repr=False)
    nonce: bytes = field(repr=False)
    key_check: bytes = field(repr=False)
    keys: NoiseKeys = field(repr=False)
    grant: str = field(repr=False)
    upload_bytes: int  # protobuf messages that storing took, without TLS and HTTP/2
    kept_pixels: int = 0  # how many pixels are no part of the picture; a number alone says nothing about the image


def parse_object_id(text: "str | ObjectId") -> ObjectId:
    """An object id as a user types it. Raises BadInputError."""
    try:
        return ObjectId(str(text).strip())
    except RemoteProtocolError as error:
        raise BadInputError(f"{str(text)[:40]!r} is not an object id: `darkroom store` prints one, 32 hex digits") from error


def prepare_folder(folder: Path) -> None:
    """Make the folder of records, closed to others. Raises ConfigurationError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder of object records {folder} cannot be made: {error.strerror}") from error


def save_record(folder: Path, record: ObjectRecord) -> None:
    """Write a record, over an older one of the same object. Run by the client.

    Raises ConfigurationError: the disk is full or the folder closed; an older record is then as it was.
    """
    with replacing(_record_path(folder, record.object_id), mode=PRIVATE_MODE) as file:
        file.write(render_record(record))


def render_record(record: ObjectRecord) -> bytes:
    """The record's file, keys and grant included: a secret. Run by the client, for its own folder or for an edge's."""
    return json.dumps(_to_json(record), indent=1).encode() + b"\n"


def save_header(folder: Path, object_id: ObjectId, origin: Origin) -> None:
    """Put beside the record what a result's file needs: header and kept pixels. Run by the client. Raises ConfigurationError."""
    contents: dict[str, bytes] = {}
    if origin.dataset is not None:
        contents[_DICOM] = serialise_header(origin.dataset)
    if origin.header:
        contents[_HEADER] = origin.header
    if origin.kept is not None:
        out = io.BytesIO()
        np.savez_compressed(out, mask=origin.kept.mask, values=origin.kept.values)
        contents[_KEPT] = out.getvalue()
    for suffix, content in contents.items():
        with replacing(_path(folder, object_id, suffix), mode=PRIVATE_MODE) as file:
            file.write(content)


def companions(folder: Path, object_id: ObjectId) -> list[Path]:
    """The files beside a record: whoever gets the record needs them too."""
    paths = [_path(folder, object_id, suffix) for suffix in (_DICOM, _HEADER, _KEPT)]
    return [path for path in paths if path.exists()]


def load_record(folder: Path, object_id: ObjectId) -> ObjectRecord:
    """Read a record. Run by the edge.

    Raises NotFoundError: there is none. ConfigurationError: it is damaged, or others can read it.
    """
    path = _record_path(folder, object_id)
    if not path.exists():
        raise NotFoundError(
            f"{folder} has no record of object {object_id}: check the id, or copy the record from where it was stored"
        )
    try:
        record = _from_json(json.loads(read_private(path, "the object record")))
    except _DAMAGED as error:
        # The error may quote a key, and is left out.
        raise ConfigurationError(
            f"the object record {path} is damaged ({type(error).__name__}): restore it, or store again"
        ) from None
    if record.object_id != object_id:
        raise ConfigurationError(f"the object record {path} is that of {record.object_id}: it was renamed or overwritten")
    return record


def load_stored(folder: Path, object_id: ObjectId) -> ObjectRecord:
    """`load_record`, of an object that the servers have in full. Raises NotFoundError also where storing was cut off."""
    record = load_record(folder, object_id)
    if record.state is not RecordState.STORED:
        raise NotFoundError(f"storing {object_id} was cut off: run `darkroom delete {object_id}` and store the image again")
    return record


def load_origin(folder: Path, record: ObjectRecord) -> Origin:
    """What the result's file needs. Run by the edge.

    Raises BadInputError: the DICOM header is gone or damaged. ConfigurationError: another file beside the record is.
    """
    dataset = load_header(_path(folder, record.object_id, _DICOM)) if record.kind is Kind.DICOM else None
    header_path = _path(folder, record.object_id, _HEADER)
    header = read_private(header_path, "the image's header") if record.kind is Kind.NIFTI or header_path.exists() else b""
    kept = _load_kept(folder, record) if record.kept_pixels else None
    return Origin(record.kind, record.normalisation, record.bits, record.name, dataset, kept, header)


def _load_kept(folder: Path, record: ObjectRecord) -> KeptPixels:
    path = _path(folder, record.object_id, _KEPT)
    content = read_private(path, "the pixels that are no part of the picture,")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            mask, values = arrays["mask"], arrays["values"]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{path} is damaged: store the image again") from error
    sizes = (mask.dtype, mask.shape, values.dtype, values.shape)
    if sizes != (np.dtype(bool), (record.height, record.width), np.dtype(np.float64), (int(mask.sum()),)):
        raise ConfigurationError(f"{path} does not fit the record of {record.object_id}: store the image again")
    return KeptPixels(mask, values)


def delete_record(folder: Path, object_id: ObjectId) -> bool:
    """Remove the record and what lies beside it; whether there was a record. Raises ConfigurationError."""
    path = _record_path(folder, object_id)
    try:
        for companion in companions(folder, object_id):
            companion.unlink(missing_ok=True)
        existed = path.exists()
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the object record {path} cannot be removed: {error.strerror}") from error
    return existed


def _record_path(folder: Path, object_id: ObjectId) -> Path:
    return folder / f"{object_id}.json"


def _path(folder: Path, object_id: ObjectId, suffix: str) -> Path:
    return folder / f"{object_id}{suffix}"


def _to_json(record: ObjectRecord) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "object_id": str(record.object_id),
        "state": record.state.value,
        "height": record.height,
        "width": record.width,
        "packing": record.packing.value,
        "packing_sigma": record.packing_sigma,
        "sigma": record.sigma,
        "kind": record.kind.value,
        "bits": record.bits,
        "name": record.name,
        "slope": record.normalisation.slope,
        "intercept": record.normalisation.intercept,
        "nonce": record.nonce.hex(),
        "key_check": record.key_check.hex(),
        "key_a": record.keys.key_a.hex(),
        "key_b": record.keys.key_b.hex(),
        "grant": record.grant,
        "upload_bytes": record.upload_bytes,
        "kept_pixels": record.kept_pixels,
    }


def _from_json(content: Any) -> ObjectRecord:
    """Raises one of `_DAMAGED`."""
    if content["format"] != FORMAT:
        raise ValueError("unknown format")
    record = ObjectRecord(
        object_id=ObjectId(content["object_id"]),
        state=RecordState(content["state"]),
        height=_whole(content["height"]),
        width=_whole(content["width"]),
        packing=PackingMode(content["packing"]),
        packing_sigma=_real(content["packing_sigma"]),
        sigma=_real(content["sigma"]),
        kind=Kind(content["kind"]),
        bits=_whole(content["bits"]),
        name=_text(content["name"]),
        normalisation=Normalisation(_real(content["slope"]), _real(content["intercept"])),
        nonce=bytes.fromhex(content["nonce"]),
        key_check=bytes.fromhex(content["key_check"]),
        keys=NoiseKeys(bytes.fromhex(content["key_a"]), bytes.fromhex(content["key_b"])),
        grant=_text(content["grant"]),
        upload_bytes=_whole(content["upload_bytes"]),
        kept_pixels=_whole(content.get("kept_pixels", 0)),  # records of 0.1.0 have none
    )
    if min(record.height, record.width) < MIN_IMAGE_SIDE or record.height * record.width > MAX_PIXELS:
        raise ValueError("size out of range")
    return record


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not an integer")
    return value


def _real(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError("not a finite number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
