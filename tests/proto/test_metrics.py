"""What metrics may say, and where they may be shown. No sockets but one on loopback."""

import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dealer.metrics import DealerMetrics
from proto.calls import answering
from proto.metrics import CallOutcome, MetricsAddress, PartyMetrics, metrics_address, metrics_endpoint, outcome_of
from proto.status import TABLE
from protocols.errors import AccessDenied, BusyError, ConfigurationError, PeerUnavailableError, RemoteProtocolError
from protocols.identifiers import Role, SessionId

SECONDS = 60


class Context:
    """As much of gRPC as a call's end needs."""

    def __init__(self):
        self.trailing = ()

    def set_trailing_metadata(self, pairs):
        self.trailing = pairs

    def abort(self, status, details):
        raise Refused(status, details)


class Refused(Exception):  # noqa: N818
    """The call has ended with a status."""


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464),
        ("localhost:0", "localhost", 0),
        ("[::1]:1", "::1", 1),
        ("127.8.9.1:65535", "127.8.9.1", 65535),
    ],
)
def test_loopback_is_allowed(listen, host, port):
    assert metrics_address(listen, allow_remote=False) == MetricsAddress(host, port)


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:9464", "[::]:9464", "192.168.1.5:9464", "10.0.0.1:1", "example.org:9464", "127.0.0.1.example:1"]
)
def test_what_others_can_reach_is_refused_unless_allowed(listen):
    with pytest.raises(ConfigurationError, match="allow_remote = true"):
        metrics_address(listen, allow_remote=False)
    assert metrics_address(listen, allow_remote=True).port > 0


@pytest.mark.parametrize(
    "listen", ["", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1"]
)
def test_addresses_that_are_none(listen):
    with pytest.raises(ConfigurationError, match="must be HOST:PORT"):
        metrics_address(listen, allow_remote=True)


@pytest.mark.integration
def test_the_endpoint_shows_the_registry_and_ends():
    metrics = DealerMetrics()
    metrics.claimed(Role.B, 123, 0.2)
    with metrics_endpoint(MetricsAddress("127.0.0.1", 0), metrics.registry) as address:
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=SECONDS).read().decode()  # noqa: S310
        with (
            pytest.raises(ConfigurationError, match="cannot serve metrics on"),
            metrics_endpoint(MetricsAddress("127.0.0.1", int(address.rsplit(":", 1)[1])), metrics.registry),
        ):
            pass
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["darkroom_dealt_bytes"].samples[0].value == 123
    assert families["darkroom_build_info"].samples[0].labels["party"] == "dealer"
    with pytest.raises(OSError):  # noqa: PT011 - nobody listens any more
        urllib.request.urlopen(f"http://{address}/metrics", timeout=SECONDS)  # noqa: S310


def test_no_endpoint_unless_asked_for():
    with metrics_endpoint(None, PartyMetrics("dealer").registry) as address:
        assert address is None


def test_every_error_has_an_outcome():
    outcomes = {kind: outcome_of(kind("x")) for kind, _ in TABLE}
    assert outcomes[BusyError] is CallOutcome.BUSY
    assert outcomes[PeerUnavailableError] is CallOutcome.UNAVAILABLE
    assert outcomes[AccessDenied] is CallOutcome.REFUSED
    assert outcomes[RemoteProtocolError] is CallOutcome.FAILED
    assert not {CallOutcome.OK, CallOutcome.BUG, CallOutcome.CANCELLED} & set(outcomes.values())


def end(metrics, error=None, *, cancelled=False, context=None):
    with answering(context or Context(), "Denoise", metrics, cancelled=lambda: cancelled) as call:
        call.note_id("session", "1" * 32)
        assert value(metrics, "darkroom_calls_under_way") == 1
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "cancelled", "outcome"),
    [
        (None, False, "ok"),
        (BusyError("full", retry_seconds=3), False, "busy"),
        (AccessDenied("no"), False, "refused"),
        (PeerUnavailableError("broke"), False, "unavailable"),
        (PeerUnavailableError("broke"), True, "cancelled"),
        (RemoteProtocolError("order"), False, "failed"),
    ],
)
def test_each_call_is_counted_once_by_how_it_ended(error, cancelled, outcome):
    metrics, context = PartyMetrics("server A"), Context()
    if error is None:
        end(metrics)
    else:
        with pytest.raises(Refused):
            end(metrics, error, cancelled=cancelled, context=context)
    assert value(metrics, "darkroom_calls_total", call="Denoise", outcome=outcome) == 1
    assert (
        sum(
            sample.value
            for family in metrics.registry.collect()
            if family.name == "darkroom_calls"
            for sample in family.samples
            if sample.name.endswith("_total")
        )
        == 1
    )
    assert value(metrics, "darkroom_calls_under_way") == 0
    assert value(metrics, "darkroom_busy_refusals_total") == (outcome == "busy")
    assert bool(context.trailing) == (outcome == "busy")


def test_a_bug_is_counted_as_one_and_goes_on():
    metrics = PartyMetrics("server A")
    with pytest.raises(ZeroDivisionError):
        end(metrics, ZeroDivisionError())
    assert value(metrics, "darkroom_calls_total", call="Denoise", outcome="bug") == 1


def test_a_stream_that_the_caller_drops_is_cancelled():
    metrics = PartyMetrics("server A")

    def stream():
        with answering(Context(), "Denoise", metrics):
            yield 1

    replies = stream()
    next(replies)
    del replies
    assert value(metrics, "darkroom_calls_total", call="Denoise", outcome="cancelled") == 1


@pytest.mark.parametrize("text", [str(SessionId.fresh()), "doe^john", "1" * 33, ""], ids=["identifier", "name", "long", "empty"])
def test_the_log_of_a_call_holds_identifiers_and_not_what_a_caller_sends_in_their_place(text):
    with answering(Context(), "Denoise", PartyMetrics("server A")) as call:
        call.note_id("session", text)
    assert call.fields == ({"session": text} if len(text) == 32 else {})


def test_status_of_the_wire_is_kept():
    with pytest.raises(Refused) as refused:
        end(PartyMetrics("server A"), BusyError("full", retry_seconds=3))
    assert refused.value.args[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
