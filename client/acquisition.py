"""Acquisition: pack an image, share it, and store one share at each server. Run by the client.

The image goes no further than this process: server A gets a seed, server B uniform ring words. The record is written before
anything is sent, so that nothing the servers hold is unknown to the hospital; keys and nonce are made anew for each upload.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Final

from client import records
from client.both_servers import Connection, at_both, connect, delete_object, greet, upload_seconds
from client.calls import Calls
from client.config import HospitalConfig
from client.grants import issue_grant
from client.keys import MasterKey
from client.noise_level import estimate_sigma
from client.nonce_ledger import claim_nonce
from client.origin import SourceImage
from client.progress import Progress, Step, silent
from client.records import ObjectRecord, RecordState, parse_object_id
from proto import darkroom_pb2 as pb
from proto.conversion import packing_to_wire
from proto.status import calling
from proto.transport import chunks
from protocols.errors import BadInputError, DarkroomError, NotFoundError, reworded
from protocols.fixed_point import encode_image
from protocols.identifiers import ObjectId, Role
from protocols.packing import PackingMode, fresh_nonce, key_check_value, pack
from protocols.ring import to_bytes
from protocols.sharing import SharePair, share
from protocols.unpicklable import Unpicklable

# As strong as the noise that denoisers are measured at. It hides fine detail and no more (`darkroom store` says how
# many bits leak); with an acquisition noise of up to 49/255 the sum stays within what models are trained for.
DEFAULT_PACKING_SIGMA: Final = 25.0 / 255.0
SIGMA_LIMIT: Final = 55.0 / 255.0  # models are trained up to this, and the wires' bounds are measured up to it


@dataclass(frozen=True, eq=False)
class PackedObject(Unpicklable):
    """What goes to the servers, and the record that stays. The size is public."""

    record: ObjectRecord
    shares: SharePair = field(repr=False)


def store(
    config: HospitalConfig,
    image: SourceImage,
    *,
    packing: PackingMode = PackingMode.KEYED,
    packing_sigma: float | None = None,
    sigma: float | None = None,
    window: timedelta | None = None,
    progress: Progress = silent,
) -> ObjectRecord:
    """Pack and store one image at both servers. Run by the client.

    packing_sigma, sigma: in units of the normalised range; sigma is the acquisition noise, estimated where it is None.
    window: how long the edge may open the object, from now on; the configuration's where it is None.
    Raises EncodingRangeError: a pixel outside [-1, 2]. BadInputError: a sigma out of range. ConfigurationError: an identity,
    a key, or the disk. MaterialReusedError: the nonce was used before. PeerUnavailableError, AccessDenied, ...: a server
    refused; then neither server has the object, or the error says which one still has it.
    """
    client = config.require_client()
    packed = pack_object(image, client.noise_key, packing=packing, packing_sigma=packing_sigma, sigma=sigma)
    record = packed.record
    progress(Step("client", f"packed {record.height}x{record.width} ({packing.value}) and split it into two shares"))
    records.prepare_folder(config.objects)
    claim_nonce(config.objects, record.nonce)
    asked: list[Connection] = []
    with connect(config, client.identity) as connections:
        for connection in connections.values():
            greet(connection)  # a server that is down or refuses us is found before anything is stored
        try:
            records.save_record(config.objects, record)
            records.save_header(config.objects, record.object_id, image.origin)
            sent = 0
            for connection in connections.values():
                asked.append(connection)
                sent += _upload(connection, packed, progress)
            grant = issue_grant(client.signing_key, record.object_id, config.edge_name, window or config.window)
            record = replace(record, state=RecordState.STORED, grant=grant, upload_bytes=sent)
            records.save_record(config.objects, record)
        except DarkroomError as error:
            raise reworded(error, f"{error}; {_undo(config, asked, record.object_id)}") from error
        except KeyboardInterrupt:
            progress(Step("client", f"interrupted: {_undo(config, asked, record.object_id)}"))
            raise
    return record


def pack_object(
    image: SourceImage,
    master_key: MasterKey,
    *,
    packing: PackingMode,
    packing_sigma: float | None = None,
    sigma: float | None = None,
) -> PackedObject:
    """Encode, pack and share one image under a fresh nonce and id. Run by the client; sends nothing.

    Raises EncodingRangeError, BadInputError: as `store`.
    """
    sigma = estimate_sigma(image.pixels) if sigma is None else sigma
    packing_sigma = _packing_sigma(packing, packing_sigma)
    check_noise_level(sigma, packing, packing_sigma)
    nonce = fresh_nonce()
    keys = master_key.for_object(nonce)
    words = pack(encode_image(image.pixels).unsqueeze(0), keys, packing, packing_sigma)
    record = ObjectRecord(
        object_id=ObjectId.fresh(),
        state=RecordState.PENDING,
        height=image.height,
        width=image.width,
        packing=packing,
        packing_sigma=packing_sigma,
        sigma=sigma,
        kind=image.kind,
        bits=image.bits,
        name=image.name,
        normalisation=image.normalisation,
        nonce=nonce,
        key_check=key_check_value(keys, nonce),
        keys=keys,
        grant="",
        upload_bytes=0,
        kept_pixels=0 if image.origin.kept is None else int(image.origin.kept.mask.sum()),
    )
    return PackedObject(record, share(words))


def check_noise_level(sigma: float, packing: PackingMode, packing_sigma: float) -> float:
    """The noise level that the network is told: that of what it runs on, so with the packing noise in blind mode.

    Source: variances of independent noises add. Raises BadInputError: above 55/255, or not a number of at least 0.
    """
    if not 0.0 <= sigma < math.inf:
        raise BadInputError(f"a noise level of {sigma:g} is not a number of at least 0")
    level = math.hypot(sigma, packing_sigma) if packing is PackingMode.BLIND else sigma
    if level > SIGMA_LIMIT:
        what = f"{sigma * 255:.1f}/255"
        if packing is PackingMode.BLIND:
            what = f"{level * 255:.1f}/255 (acquisition {what} and packing {packing_sigma * 255:.1f}/255)"
        raise BadInputError(
            f"the noise level is {what}; models are trained up to 55/255: give a smaller sigma to denoise as far as they go"
        )
    return level


def delete(config: HospitalConfig, object_id: ObjectId | str, *, progress: Progress = silent) -> None:
    """Delete an object at both servers, then its record. Run by the client. A server that has it no longer is no error.

    Raises BadInputError: no object id. NotFoundError: nobody knows the object. Another DarkroomError: a server failed; the error
    says which, the other was asked too, and the record stays for another try.
    """
    object_id = parse_object_id(object_id)
    client = config.require_client()
    failures: list[DarkroomError] = []
    deleted: list[str] = []
    with connect(config, client.identity) as connections:
        for connection in connections.values():
            try:
                delete_object(connection, object_id)
            except NotFoundError:
                continue
            except DarkroomError as error:
                failures.append(error)
                continue
            deleted.append(connection.name)
            progress(Step(connection.name, "deleted its share"))
    if failures:
        done = f"{' and '.join(deleted)} deleted its share" if deleted else "no share was deleted"
        text = "; ".join(str(error) for error in failures)
        raise reworded(failures[0], f"{text}; {done}, and the record stays: run `darkroom delete {object_id}` again")
    existed = records.delete_record(config.objects, object_id)
    if not existed and not deleted:
        raise NotFoundError(f"no server and no record knows object {object_id}: check the id")


def renew_grant(config: HospitalConfig, object_id: ObjectId | str, window: timedelta | None = None) -> ObjectRecord:
    """The record of a stored object with a fresh grant, for a window from now on; saved nowhere. Run by the client.

    For an edge elsewhere: `records.render_record` gives the file that goes to its folder of objects.
    Raises BadInputError, NotFoundError, ConfigurationError.
    """
    client = config.require_client()
    record = records.load_stored(config.objects, parse_object_id(object_id))
    grant = issue_grant(client.signing_key, record.object_id, config.edge_name, window or config.window)
    return replace(record, grant=grant)


def _packing_sigma(packing: PackingMode, given: float | None) -> float:
    if packing is PackingMode.KEYED:
        if given:
            raise BadInputError(
                f"keyed packing has no noise level, got --packing-sigma {255 * given:g}: leave it out, or choose --packing"
                " gaussian or blind"
            )
        return 0.0
    return DEFAULT_PACKING_SIGMA if given is None else given


def _upload(connection: Connection, packed: PackedObject, progress: Progress) -> int:
    """Store one server's share; the bytes of the messages that this took."""
    record, role = packed.record, connection.role
    header = pb.StoreHeader(
        object_id=str(record.object_id),
        size=pb.Size(height=record.height, width=record.width),
        packing=packing_to_wire(record.packing),
        packing_sigma=record.packing_sigma,
        seed=packed.shares.seed if role is Role.A else b"",
    )
    content = to_bytes(packed.shares.words) if role is Role.B else b""

    sizes: list[int] = []

    def counted(request: pb.StoreRequest) -> pb.StoreRequest:
        sizes.append(request.ByteSize())
        return request

    def requests() -> Iterator[pb.StoreRequest]:
        yield counted(pb.StoreRequest(header=header))
        sent = 0
        for chunk in chunks(content):
            yield counted(pb.StoreRequest(chunk=chunk))
            sent += len(chunk)
            progress(Step(connection.name, "receiving its share", sent, len(content)))

    calls = Calls()

    def upload() -> None:
        with calling(connection.place, "to store its share"):
            calls.begin(partial(connection.stub.Store.future, requests(), timeout=upload_seconds(len(content)))).result()

    at_both({role: upload}, calls.cancel)  # a call that Ctrl-C left running would store the object after it was taken back
    held = "a 32-byte seed" if role is Role.A else f"{record.height}x{record.width} uniform words"
    progress(Step(connection.name, f"stored its share: {held}"))
    return sum(sizes)


def _undo(config: HospitalConfig, asked: Sequence[Connection], object_id: ObjectId) -> str:
    """Take back a failed store, as far as the servers can be reached; says what came of it."""
    kept: list[str] = []
    for connection in asked:
        try:
            delete_object(connection, object_id)
        except NotFoundError:
            continue
        except DarkroomError:
            kept.append(connection.name)
    if kept:
        # The record stays, pending: without it nobody would know what to delete.
        return f"{' and '.join(kept)} may still hold a share: run `darkroom delete {object_id}` when it can be reached"
    records.delete_record(config.objects, object_id)
    return "nothing was stored"
