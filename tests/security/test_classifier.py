import numpy as np
import pytest

from security.classifier import Verdict, features, judge, needed_accuracy


def words(generator: np.random.Generator, sessions: int) -> np.ndarray:
    return generator.integers(-(2**63), 2**63 - 1, (sessions, 48), endpoint=True)


def test_it_finds_a_planted_difference_on_sessions_it_has_not_seen():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 80).astype(bool)
    samples = words(generator, 80)
    samples[labels] &= ~np.int64(0xF0F)
    verdict = judge(features(samples), labels)
    assert verdict == Verdict(40, 40)
    assert verdict.p_value == pytest.approx(2.0**-40)


def test_without_a_difference_its_p_value_is_uniform_enough():
    generator = np.random.default_rng(2)
    values = []
    for _ in range(60):
        labels = generator.integers(0, 2, 60).astype(bool)
        values.append(judge(features(words(generator, 60)), labels).p_value)
    assert sum(value <= 0.05 for value in values) <= 9
    assert sum(value <= 0.5 for value in values) >= 12


def test_a_label_that_leaks_in_one_statistic_only_is_found():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 2, 200).astype(bool)
    samples = words(generator, 200)
    samples[labels] >>= 3
    assert judge(features(samples), labels).p_value < 1e-9


def test_a_single_constant_word_gives_finite_features():
    assert np.isfinite(features(np.zeros((3, 1), dtype=np.int64))).all()


def test_the_accuracy_that_is_needed():
    assert needed_accuracy(36, 1.1e-9) <= 1.0
    assert needed_accuracy(20, 1.1e-9) > 1.0  # no accuracy would do
    assert Verdict(36, 36).p_value < 1.1e-9
    assert Verdict(18, 36).upper_accuracy < 0.75
