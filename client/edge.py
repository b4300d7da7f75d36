"""Edge: open the window, let both servers evaluate, put the two result shares together. Run by the edge.

A server that deviates may add errors to a wire. Its view stays uniform, so it learns nothing until the edge reacts (DESIGN
section 1). So every check of values runs after both streams have ended well, and its failure is terminal and stays here:
the servers see an ordinary completed call, and nobody tries again on his own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Final

import grpc
import torch
from jaxtyping import Float64
from torch import Tensor

from client import records
from client.acquisition import check_noise_level
from client.both_servers import Connection, at_both, connect
from client.calls import Calls
from client.config import HospitalConfig
from client.keys import MasterKey
from client.origin import Provenance
from client.progress import Progress, Step, silent
from client.records import ObjectRecord
from client.result_stream import ResultReader, ServerCost, ServerResult, summed_messages
from proto import darkroom_pb2 as pb
from proto.status import calling
from protocols.blind import fuse, residual_test
from protocols.errors import DarkroomError, IntegrityError, PeerUnavailableError, RemoteProtocolError
from protocols.fixed_point import decode, encode
from protocols.identifiers import ObjectId, PushId, Role, SessionId
from protocols.packing import NoiseKeys, PackingMode, check_keys, total_noise
from protocols.sharing import expand_seed, reconstruct, share
from protocols.unpicklable import Unpicklable

OUTPUT_LOW: Final = -2.0  # inputs are in [-1, 2]; a denoiser's output has no reason to go further than one range beyond.
OUTPUT_HIGH: Final = 3.0  # A failed truncation is off by 2^(64 - 2*16) or more, a deviating server's error is uniform.
QUEUE_SECONDS: Final = 600.0  # the server's queue is bounded and one evaluation runs at a time
SECONDS_PER_PIXEL: Final = 2e-3  # 40 times what stock CrypTen needs for the gated network on one core


@dataclass(frozen=True, eq=False)
class BlindResult(Unpicklable):
    """What the edge found out in blind mode. The statistic is public, the pixels are not."""

    estimate: Float64[Tensor, "h w"] = field(repr=False)  # the network's, before fusion
    packed: Float64[Tensor, "h w"] = field(repr=False)  # what the network ran on
    correlation: float  # of the residual with the predicted noise
    threshold: float
    weight: float  # of the network's estimate in the fusion


@dataclass(frozen=True, eq=False)
class Denoised(Unpicklable):
    """A result at the edge. Shape, mode and costs are public, the pixels are not."""

    object_id: ObjectId
    pixels: Float64[Tensor, "h w"] = field(repr=False)  # [0, 1] nominal, not clipped
    mode: PackingMode
    model: str
    push_id: PushId
    engine: str
    sigma: float  # what the network was told, in units of the normalised range
    costs: Mapping[Role, ServerCost]
    upload_bytes: int  # protobuf messages to both servers, without TLS and HTTP/2: the edge's, and those that stored the object
    download_bytes: int
    blind: BlindResult | None = None
    planes: int = 1  # of a file of several, the pixels are the first one's, and the costs those of all

    @property
    def estimate(self) -> Float64[Tensor, "h w"]:
        """The network's output: the result itself, or in blind mode what went into the fusion."""
        return self.pixels if self.blind is None else self.blind.estimate

    @property
    def online_seconds(self) -> float:
        return max(cost.online_seconds for cost in self.costs.values())

    @property
    def offline_seconds(self) -> float:
        return max(cost.offline_seconds for cost in self.costs.values())

    @property
    def provenance(self) -> Provenance:
        """For the header of a derived DICOM."""
        return Provenance(self.model, self.sigma, self.engine)


@dataclass(frozen=True, eq=False)
class Answer(Unpicklable):
    """One server's checked answer, and the size of its stream."""

    result: ServerResult
    download_bytes: int


def denoise(
    config: HospitalConfig,
    object_id: ObjectId | str,
    *,
    model: str,
    sigma: float | None = None,
    master_key: MasterKey | None = None,
    engine: str = "",
    progress: Progress = silent,
    calls: Calls | None = None,
) -> Denoised:
    """Open a window on one object and have it denoised. Run by the edge.

    sigma: acquisition noise in units of the normalised range; the record's where it is None. master_key: derive the noise
    keys from this one instead of taking the record's. engine: one of protocols.engines.ENGINES; "": the servers choose.
    calls: fresh ones, for who ends this from another thread.
    Raises NotFoundError: no such object. IntegrityError: a wrong key, found before anything is sent; or a result that fails its
    check. BadInputError: a sigma out of range. ConfigurationError, AccessDenied, PeerUnavailableError, RemoteProtocolError.
    """
    identity = config.require_edge()
    record = records.load_stored(config.objects, records.parse_object_id(object_id))
    keys = record.keys if master_key is None else master_key.for_object(record.nonce)
    check_keys(keys, record.nonce, record.key_check)
    acquisition = record.sigma if sigma is None else sigma
    level = check_noise_level(acquisition, record.packing, record.packing_sigma)
    requests = denoise_requests(record, keys, model, level, engine)
    with connect(config, identity) as connections:
        progress(Step("edge", f"opened a window on {record.height}x{record.width} ({record.packing.value})"))
        answers = _call_both(connections, requests, record, progress, calls or Calls())
    a, b = answers[Role.A].result, answers[Role.B].result
    pixels, blind = reconstruct_result(a, b, record, keys, acquisition)
    progress(Step("edge", "put the two result shares together"))
    return Denoised(
        object_id=record.object_id,
        pixels=pixels,
        mode=record.packing,
        model=model,
        push_id=a.push_id,
        engine=a.engine,
        sigma=level,
        costs={role: answer.result.cost for role, answer in answers.items()},
        upload_bytes=record.upload_bytes + sum(request.ByteSize() for request in requests.values()),
        download_bytes=sum(answer.download_bytes for answer in answers.values()),
        blind=blind,
    )


def combined(results: Sequence[Denoised]) -> Denoised:
    """The results of all planes of one file as one: costs are added up, peaks are the highest."""
    if len(results) == 1:
        return results[0]

    def total(role: Role) -> ServerCost:
        costs = [result.costs[role] for result in results]
        merged: dict[str, Callable[[Any], Any]] = {
            "peak_rss_bytes": max,
            "dealer_peak_rss_bytes": max,
            "messages": summed_messages,
        }
        return ServerCost(
            **{cost.name: merged.get(cost.name, sum)([getattr(each, cost.name) for each in costs]) for cost in fields(ServerCost)}
        )

    return replace(
        results[0],
        costs={role: total(role) for role in Role},
        sigma=max(result.sigma for result in results),
        upload_bytes=sum(result.upload_bytes for result in results),
        download_bytes=sum(result.download_bytes for result in results),
        planes=len(results),
    )


def denoise_requests(
    record: ObjectRecord, keys: NoiseKeys, model: str, level: float, engine: str = ""
) -> dict[Role, pb.DenoiseRequest]:
    """One request for each server, under one fresh session id: its own noise key, its own share of the noise level."""
    session = SessionId.fresh()
    shared = share(encode(torch.tensor([level], dtype=torch.float64)))
    sigma_share = {Role.A: int(expand_seed(shared.seed, (1,))[0]), Role.B: int(shared.words[0])}
    return {
        role: pb.DenoiseRequest(
            session_id=str(session),
            object_id=str(record.object_id),
            model=model,
            grant=record.grant,
            noise_key=b"" if record.packing is PackingMode.BLIND else keys.of(role),
            sigma_share=sigma_share[role],
            engine=engine,
        )
        for role in Role
    }


def reconstruct_result(
    a: ServerResult, b: ServerResult, record: ObjectRecord, keys: NoiseKeys, sigma: float
) -> tuple[Float64[Tensor, "h w"], BlindResult | None]:
    """Put the shares together and check the values. Run by the edge, after both streams have ended.

    sigma: acquisition noise. Raises RemoteProtocolError: the servers did not do the same. IntegrityError: values that
    no denoiser gives, or in blind mode a residual that is not the packing noise.
    """
    if (a.push_id, a.engine) != (b.push_id, b.engine):
        raise RemoteProtocolError(f"server A used {a.push_id} on {a.engine}, server B {b.push_id} on {b.engine}")
    estimate = decode(reconstruct(a.output, b.output))[0]
    _check_range(estimate)
    if a.packed is None or b.packed is None:
        return estimate, None
    packed = decode(reconstruct(a.packed, b.packed))[0]
    noise = decode(total_noise(keys, record.packing, (1, record.height, record.width), record.packing_sigma))[0]
    statistic = residual_test(packed, estimate, noise)
    fused = fuse(packed, estimate, noise, sigma)
    blind = BlindResult(estimate, packed, statistic.correlation, statistic.threshold, fused.weight)
    return fused.pixels, blind


def _check_range(estimate: Float64[Tensor, "h w"]) -> None:
    """Raises IntegrityError. The message tells no value: it goes to logs."""
    outside = int(((estimate < OUTPUT_LOW) | (estimate > OUTPUT_HIGH)).sum())
    if outside:
        raise IntegrityError(
            f"the result is damaged: {outside} of {estimate.numel()} pixels lie outside [{OUTPUT_LOW:g}, {OUTPUT_HIGH:g}]."
            " A truncation failed (rare), the model does not fit, or a server deviates: do not retry by a script"
        )


def _call_both(
    connections: Mapping[Role, Connection],
    requests: Mapping[Role, pb.DenoiseRequest],
    record: ObjectRecord,
    progress: Progress,
    calls: Calls,
) -> dict[Role, Answer]:
    timeout = QUEUE_SECONDS + math.ceil(record.height * record.width * SECONDS_PER_PIXEL)
    jobs: dict[Role, Callable[[], Answer]] = {}
    for role, connection in connections.items():
        begin = partial(calls.begin, partial(connection.stub.Denoise, requests[role], timeout=timeout))
        reader = ResultReader(role, record.packing, record.height, record.width)
        jobs[role] = partial(_read, connection, begin, reader, progress)
    return at_both(jobs, calls.cancel)


def _late(error: PeerUnavailableError) -> int | None:
    """When to come again where our own deadline passed: at once. The queue was longer than we had reckoned with."""
    call = error.__cause__
    late = isinstance(call, grpc.RpcError) and call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return 1 if late else None


def _read(connection: Connection, begin: Callable[[], Any], reader: ResultReader, progress: Progress) -> Answer:
    """Begin one call, and read its stream to the end."""
    count, shown = 0, ""
    try:
        with calling(connection.place, "to denoise"):
            for reply in begin():
                count += reply.ByteSize()
                reader.receive(reply)
                done, total = reader.received
                if done or reader.stage != shown:
                    shown = reader.stage
                    progress(Step(connection.name, shown, done, total if done else 0))
        return Answer(reader.finish(), count)
    except PeerUnavailableError as error:
        # "Try again" is believed of a server that had not begun: afterwards the user decides, as after any failure.
        retry_seconds = (error.retry_seconds or _late(error)) if reader.waiting else None
        raise type(error)(f"{error} (while {reader.stage})", retry_seconds=retry_seconds) from error
    except DarkroomError as error:
        raise type(error)(f"{error} (while {reader.stage})") from error
