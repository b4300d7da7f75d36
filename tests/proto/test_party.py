"""A party's settings that are numbers and flags, and the signals that stop it."""

import signal
import threading

import pytest
from structlog.testing import capture_logs

from proto.metrics import MetricsAddress
from proto.party import Settings, StopSignals, _remove_ready
from protocols.errors import ConfigurationError

FILE = """
drain_seconds = 2.5
yes = true
text = "2"
[queue]
waiting = 3
[metrics]
listen = "127.0.0.1:9464"
"""


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "server.toml"
    path.write_text(FILE)
    return Settings.load(path)


def test_numbers(settings):
    assert settings.number("drain_seconds", default=60.0, low=0.0, high=10.0) == 2.5
    assert settings.number("queue", "waiting", default=8, low=0, high=10) == 3
    assert settings.number("queue", "absent", default=8, low=0, high=10) == 8


@pytest.mark.parametrize(("key", "high"), [("text", 10), ("yes", 10), ("drain_seconds", 2), ("queue", 10)])
def test_what_is_no_number_in_range_is_named(settings, key, high):
    with pytest.raises(ConfigurationError, match=f"server.toml: {key} must be a number from 0 to {high}"):
        settings.number(key, default=1, low=0, high=high)


def test_flags(settings):
    assert settings.flag("yes")
    assert not settings.flag("absent")
    with pytest.raises(ConfigurationError, match="text must be true or false"):
        settings.flag("text")


def test_metrics_are_shown_where_the_file_says_and_not_otherwise(settings, tmp_path):
    assert settings.metrics() == MetricsAddress("127.0.0.1", 9464)
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert Settings.load(empty).metrics() is None
    open_to_all = tmp_path / "open.toml"
    open_to_all.write_text('[metrics]\nlisten = "0.0.0.0:9464"\n')
    with pytest.raises(ConfigurationError, match="allow_remote"):
        Settings.load(open_to_all).metrics()
    open_to_all.write_text('[metrics]\nlisten = "0.0.0.0:9464"\nallow_remote = true\n')
    assert Settings.load(open_to_all).metrics() == MetricsAddress("0.0.0.0", 9464)  # noqa: S104


def test_a_signal_that_another_thread_gets_stops_too():
    """The system may give it to any thread; Python then runs the handler when the main thread next wakes, and not before."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    given = threading.Event()

    def receive():
        given.wait(0.5)  # the main thread waits by then; the handler cannot run before it does, whenever this comes
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    try:
        signals = StopSignals()
        signals.install()
        receiver = threading.Thread(target=receive)
        receiver.start()
        signals.wait()
        assert signals.stop.is_set()
        receiver.join()
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


def test_a_ready_file_that_stays_does_not_hinder_the_end(tmp_path):
    with capture_logs() as lines:
        _remove_ready(tmp_path / "none")
        _remove_ready(tmp_path)  # a folder is not unlinked
    assert [line["event"] for line in lines] == ["ready file stays"]
    assert lines[0]["reason"]


def test_one_signal_stops_and_the_second_stops_at_once():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        signals = StopSignals()
        signals.install()
        signal.raise_signal(signal.SIGTERM)
        assert signals.stop.is_set()
        assert not signals.at_once.is_set()
        signal.raise_signal(signal.SIGINT)
        assert signals.at_once.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
