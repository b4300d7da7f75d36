"""Judging a subject: what is uniform passes, a twin does not, and the Mersenne-Twister share passes and is broken."""

import torch

from protocols.prg import Prg, fresh_key
from security.evaluation import Setting
from security.metrics import FAMILY, KEY, PIXEL, Subject, _gaussian, _repeated_pad, _twister, _vacuous, judge, outcome
from security.share_statistics import eight_bit, uniform_likeness

IMAGE = (torch.linspace(0, 3, 64 * 64, dtype=torch.float64).sin() ** 2).view(64, 64)
ORIGINAL = eight_bit(IMAGE)
LAW = uniform_likeness(ORIGINAL, 30)


def _uniform(name: str) -> Subject:
    first, second = (Prg(fresh_key()).words(0, 0, (64, 64)) for _ in range(2))
    return Subject(name, first, {PIXEL: (first, second), KEY: (second, first)})


def test_uniform_words_pass():
    judged = judge(_uniform("uniform"), ORIGINAL, LAW)
    assert len(judged.tests) == 8 * 7 + 2 * 8 * 2
    assert outcome([judged]).holds
    assert outcome([judged]).figures["p"] >= FAMILY


def test_one_bad_plane_is_found_among_many_good_subjects():
    good = [judge(_uniform(f"good {index}"), ORIGINAL, LAW) for index in range(3)]
    bad = _uniform("bad")
    words = bad.words & ~(0xFF << 24)  # byte 3 is always zero
    found = outcome([*good, judge(Subject("bad", words, bad.pairs), ORIGINAL, LAW)])
    assert not found.holds
    assert "bad" in found.measured
    assert "byte 3" in found.measured


def test_twins_fail():
    for twin in (_gaussian(IMAGE), _repeated_pad(IMAGE)):
        assert not outcome([judge(twin, ORIGINAL, LAW)]).holds, twin.name


def test_a_mersenne_twister_share_passes_and_falls(tmp_path):
    twister, seed = _twister(IMAGE)
    judged = judge(twister, ORIGINAL, LAW)
    check = _vacuous(judged, twister, _uniform("ours"), IMAGE, seed, Setting(True, tmp_path, lambda _: None))
    assert check.passed
    assert "rebuilt exactly" in check.ours.measured


def test_secrets_do_not_print():
    subject = _uniform("share of server B")
    assert str(int(subject.words[0, 0])) not in repr(subject)
