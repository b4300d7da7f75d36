"""What is left of CrypTen's own providers, generators, communicator and openings in a process that serves: nothing.

CrypTen's state is global, so the questions are asked in forks of another process (tests/server/crypten_probes.py).
"""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from protocols.errors import ConfigurationError
from server import crypten_runtime
from tests.server.joined_workers import ROOT


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.server.crypten_probes"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=110, cwd=ROOT).stdout)


@pytest.mark.integration
def test_no_provider_of_crypten_can_be_reached(answers):
    """Neither the trusted first party (server A would know every mask) nor the others, by default or by configuration."""
    answer = answers["providers"]
    assert answer["names"] == ["dealer"]
    assert answer["default"] == "DealtProvider"
    assert answer["errors"] == {name: f"KeyError: '{name}'" for name in ("TFP", "TTP", "HE")}


@pytest.mark.integration
def test_no_secret_can_be_opened(answers):
    """Every way that CrypTen offers, and the communicator itself."""
    answer = answers["openings_without_mask"]
    to_one = answer.pop("arithmetic to one")
    assert to_one.startswith("AttributeError")
    assert len(answer) == 9
    for way, error in answer.items():
        assert error.startswith("LocalProtocolError: an opening was asked for without a mask"), way


@pytest.mark.integration
def test_a_mask_serves_one_opening(answers):
    answer = answers["a_mask_serves_once"]
    assert answer["opened"]
    assert answer["again"].startswith("LocalProtocolError: an opening was asked for without a mask")
    assert answer["exchanges"] == [0]


@pytest.mark.integration
def test_a_mask_serves_the_words_that_it_was_dealt_for(answers):
    shorter, afterwards = answers["a_mask_serves_its_own_words_only"]
    assert shorter.startswith("LocalProtocolError: opening 0 has 56 words, which the plan does not allow")
    assert "without a mask" in afterwards  # a refused opening has spent its mask


@pytest.mark.integration
def test_a_second_mask_is_not_taken_before_the_first_is_opened(answers):
    assert "correlation 0 was taken and never opened" in answers["a_mask_that_was_taken_is_opened_first"]


@pytest.mark.integration
def test_another_kind_or_shape_than_planned_is_refused(answers):
    answer = answers["another_shape_or_kind"]
    assert "asked for ProductTriple, the plan has WeightTriple" in answer["kind"]
    assert "asked for SharedBit, the plan has WeightTriple" in answer["bit"]
    assert "the evaluation needs (1, 8, 9), the plan deals (1, 8, 8)" in answer["shape"]
    assert "without a mask" in answer["nothing was granted"]


@pytest.mark.integration
def test_openings_are_sums_or_xors_and_leave_our_words_alone(answers):
    assert answers["xor_and_sum"] == [True] * 4


@pytest.mark.integration
def test_a_process_serves_one_evaluation(answers):
    assert answers["second_start"].startswith("LocalProtocolError: this process has served an evaluation")


@pytest.mark.integration
def test_crypten_draws_nothing_by_itself(answers):
    """Its draws are bound only where they are defined, and in providers that cannot be reached; there is no local generator."""
    answer = answers["own_generators"]
    rng, providers = "crypten.common.rng", "crypten.mpc.provider"
    names = ("generate_kbit_random_tensor", "generate_random_ring_element")
    modules = (rng, f"{providers}.tfp_provider", f"{providers}.ttp_provider")
    assert answer["holders"] == [f"{module}.{name}" for module in modules for name in names]
    assert answer["generators"] == {"prev": ["StreamGenerator"], "next": ["StreamGenerator"]}
    for way in ("PRSS", "rand"):
        assert answer[way].startswith("TypeError: _draw_words() missing 1 required keyword-only argument: 'generator'")


@pytest.mark.integration
def test_zero_sharings_are_of_zero_and_fresh(answers):
    (sums_a, bits_a), (sums_b, bits_b) = (answers[f"zero_sharings {role}"] for role in "AB")
    for left, right in zip(sums_a, sums_b, strict=True):
        assert [(a + b) % 2**64 for a, b in zip(left, right, strict=True)] == [0] * 4
    for left, right in zip(bits_a, bits_b, strict=True):
        assert [a ^ b for a, b in zip(left, right, strict=True)] == [0] * 4
    words = [word for draw in sums_a + bits_a for word in draw]
    assert len(set(words)) == 16


@pytest.mark.integration
def test_the_communicator_opens_and_does_nothing_else(answers):
    expected = {"kind": "PeerCommunicator", "size": 2, "others": [], "initialised": True}
    assert answers["communication"] == expected


@pytest.mark.integration
def test_modes_that_open_secrets_are_off_and_would_be_stopped(answers):
    answer = answers["modes_that_open_secrets"]
    assert answer["off"] == [False, False, False]
    for way in ("division", "repr"):
        assert "without a mask" in answer[way]


@pytest.mark.integration
def test_the_three_party_truncation_cannot_run(answers):
    assert answers["truncation_with_wraps"].startswith("AttributeError")


@pytest.mark.integration
def test_the_version_that_this_was_written_for(answers):
    assert answers["version"] in crypten_runtime.INSTALL_COMMAND


def test_a_missing_crypten_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install --no-deps crypten==0.4.1"):
        crypten_runtime.import_crypten()
