"""What a party says of itself, and to whom."""

import time
from pathlib import Path

import grpc
import pytest

from proto import darkroom_pb2 as pb
from proto import description
from proto.description import PartyService, describe, free_disk, free_memory
from proto.transport import Callers
from proto.version import VERSION, WIRE_VERSION
from protocols.errors import ConfigurationError
from tests.proto.test_transport import CLIENT, EDGE, STRANGER, Context

CALLERS = Callers({"edge": EDGE, "client": CLIENT})


class Aborted(Exception):  # noqa: N818
    """What gRPC does at an abort."""


class Answering(Context):
    def abort(self, status, details):
        raise Aborted(status, details)


def test_it_answers_pinned_callers_and_nobody_else(tmp_path: Path) -> None:
    service = PartyService(CALLERS, ["edge", "client"], tmp_path)
    for shown in (EDGE, CLIENT):
        reply = service.Describe(pb.DescribeRequest(), Answering(shown))
        assert (reply.version, reply.wire_version) == (VERSION, WIRE_VERSION)
        assert abs(reply.clock - time.time()) < 60
        assert reply.free_memory_bytes > 0
        assert reply.free_disk_bytes > 0
    for shown in (STRANGER, b""):
        with pytest.raises(Aborted) as refused:
            service.Describe(pb.DescribeRequest(), Answering(shown))
        assert refused.value.args[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_party_without_a_store_names_no_disk(tmp_path: Path) -> None:
    reply = PartyService(CALLERS, ["edge"], None).Describe(pb.DescribeRequest(), Answering(EDGE))
    assert not reply.HasField("free_disk_bytes")


class Stub:
    """The other end, five minutes ahead, on a line that takes two seconds."""

    def __init__(self, _channel):
        pass

    def Describe(self, _request, timeout):
        return pb.DescribeReply(version="9", wire_version=8, clock=1301.0, free_memory_bytes=7)


def test_the_clock_is_compared_with_the_middle_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = iter([1000.0, 1002.0])
    monkeypatch.setattr(description.time, "time", lambda: next(ours))
    monkeypatch.setattr(description.rpc, "PartyStub", Stub)
    found = describe(None, "server A")
    assert (found.clock_ahead_seconds, found.clock_uncertainty_seconds) == (300.0, 1.0)
    assert (found.version, found.wire_version, found.free_memory_bytes, found.free_disk_bytes) == ("9", 8, 7, None)


def test_a_party_without_this_call_is_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(Stub):
        def Describe(self, _request, timeout):
            error = grpc.RpcError()
            error.code = lambda: grpc.StatusCode.UNIMPLEMENTED
            error.details = lambda: "Method not found!"
            raise error

    monkeypatch.setattr(description.rpc, "PartyStub", Older)
    with pytest.raises(ConfigurationError, match="server A"):
        describe(None, "server A")


def test_free_disk_of_a_folder_that_is_yet_to_be_made(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "not" / "yet") > 0
    assert free_memory() > 0
