"""Model owner: share a model's weights between both servers. Run by whoever holds the weights.

Server A gets a seed, server B ring words: neither holds a weight. The network description is public.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc
import torch
from jaxtyping import Int64
from torch import Tensor

from client.both_servers import Connection, at_both, connect, greet, upload_seconds
from client.calls import Calls
from client.config import HospitalConfig
from client.model_file import Model
from client.progress import Progress, Step, silent
from proto import darkroom_pb2 as pb
from proto.status import calling
from proto.transport import chunks
from protocols.errors import DarkroomError, NetworkDescriptionError, RemoteProtocolError, SessionBrokenError, reworded
from protocols.fixed_point import FRAC_BITS, encode
from protocols.identifiers import PushId, Role, SessionId
from protocols.network import Network
from protocols.ring import to_bytes
from protocols.sharing import SharePair, share

MASKING_SECONDS: Final = 120.0  # besides the upload: the dealer's masks and one opening between the servers


@dataclass(frozen=True)
class ListedModel:
    """One model, as the servers name it. Public."""

    name: str
    network: Network
    push_ids: Mapping[Role, PushId | None]  # by server that has it; None: weights are masked at the next evaluation

    @property
    def complete(self) -> bool:
        """Whether both servers hold it."""
        return len(self.push_ids) == len(Role)

    @property
    def push_id(self) -> PushId | None:
        """The push that both servers are ready with, if there is one."""
        found = set(self.push_ids.values())
        return found.pop() if self.complete and len(found) == 1 else None


def push_model(config: HospitalConfig, model: Model, progress: Progress = silent) -> PushId:
    """Share a model's weights between both servers; they mask and open them once. Run by the model owner.

    Raises ConfigurationError: no [model_owner]. EncodingRangeError: a weight beyond +-2^20. PeerUnavailableError, AccessDenied,
    RemoteProtocolError: also where the servers do not agree on the push.
    """
    identity = config.require_model_owner()
    shares = share(encode_weights(model))
    session = SessionId.fresh()
    with connect(config, identity) as connections:
        calls = Calls()
        taken: list[Role] = []
        jobs: dict[Role, Callable[[], PushId]] = {}
        for role, connection in connections.items():
            header = pb.PushModelHeader(
                session_id=str(session),
                name=model.name,
                network=model.network.to_json(),
                seed=shares.seed if role is Role.A else b"",
            )
            content = _content(role, shares)
            timeout = MASKING_SECONDS + upload_seconds(len(content))
            requests = _requests(connection, header, content, progress)
            begin = partial(calls.begin, partial(connection.stub.PushModel.future, requests, timeout=timeout))
            jobs[role] = partial(_wait, connection, begin, taken)
        try:
            pushes = at_both(jobs, calls.cancel)
        except DarkroomError as error:
            if not taken:
                raise
            raise reworded(error, f"{error}. Server {taken[0].value} has taken the model: push it again") from error
    if pushes[Role.A] != pushes[Role.B]:
        raise RemoteProtocolError(f"server A holds push {pushes[Role.A]}, server B {pushes[Role.B]}: push the model again")
    progress(Step("model owner", f"pushed {model.name}: {shares.words.numel()} weights, a share at each server"))
    return pushes[Role.A]


def encode_weights(model: Model) -> Int64[Tensor, " n"]:
    """All tensors in the order of Network.parameter_shapes, flat: weights on the network's grid, biases at 16 bits.

    Run by the model owner. Raises EncodingRangeError: a value is not finite, or beyond +-2^20.
    """
    network = model.network
    words = [
        encode(model.weights[name], frac_bits=network.weight_frac_bits if name.endswith(".weight") else FRAC_BITS).flatten()
        for name in network.parameter_shapes()
    ]
    return torch.cat(words) if words else torch.zeros(0, dtype=torch.int64)


def list_models(config: HospitalConfig) -> list[ListedModel]:
    """The models that the servers hold, compared. Run by any identity of the hospital, or the model owner.

    Raises RemoteProtocolError: one name, but two networks. ConfigurationError, PeerUnavailableError, AccessDenied.
    """
    with connect(config, config.require_any()) as connections:
        replies = {role: greet(connection) for role, connection in connections.items()}
    return compare_models(replies)


def compare_models(replies: Mapping[Role, pb.ListModelsReply]) -> list[ListedModel]:
    """Both servers' lists as one, by name. Raises RemoteProtocolError: one name, but two networks."""
    found: dict[str, ListedModel] = {}
    for role, reply in replies.items():
        for entry in reply.models:
            network = _described(role, entry)
            known = found.get(entry.name) or ListedModel(entry.name, network, {})
            if known.network != network:
                raise RemoteProtocolError(f"server A and server B hold different networks as {entry.name!r}: push it again")
            pushes = {**known.push_ids, role: PushId(entry.push_id) if entry.push_id else None}
            found[entry.name] = ListedModel(entry.name, network, pushes)
    return sorted(found.values(), key=lambda model: model.name)


def _described(role: Role, entry: pb.ModelEntry) -> Network:
    try:
        return Network.from_json(entry.network)
    except NetworkDescriptionError as error:
        raise RemoteProtocolError(f"server {role.value} describes the model {entry.name[:40]!r} wrongly: {error}") from error


def _content(role: Role, shares: SharePair) -> bytes:
    return to_bytes(shares.words) if role is Role.B else b""


def _requests(
    connection: Connection, header: pb.PushModelHeader, content: bytes, progress: Progress
) -> Iterator[pb.PushModelRequest]:
    yield pb.PushModelRequest(header=header)
    sent = 0
    for chunk in chunks(content):
        yield pb.PushModelRequest(chunk=chunk)
        sent += len(chunk)
        progress(Step(connection.name, "receiving its share of the weights", sent, len(content)))


def _wait(connection: Connection, begin: Callable[[], Any], taken: list[Role]) -> PushId:
    try:
        with calling(connection.place, "to take its share of the weights"):
            reply: pb.PushModelReply = begin().result()
    except grpc.FutureCancelledError as error:
        raise SessionBrokenError(f"the call to {connection.place} was cancelled") from error
    push = PushId(reply.push_id)
    taken.append(connection.role)
    return push
