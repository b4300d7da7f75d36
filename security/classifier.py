"""A trained classifier that tries to tell from a party's view which image was processed, and how sure its failure is.

Features of a view are made item by item: histograms of the nibbles and the mean of every byte plane, and low-order statistics of
the words. A logistic regression with a ridge (D. R. Cox 1958; A. E. Hoerl and R. W. Kennard 1970) learns on one half of the
sessions and is judged on the other. The image of each session is a fair coin of its own: if the view says nothing about it,
then *whatever* was learnt, the right answers are Binomial(n, 1/2), exactly. So the p-value is exact; what a stronger
classifier would find, it does not say.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RIDGE: Final = 1.0
STEPS: Final = 300
WORD_BYTES: Final = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """How a classifier did on sessions that it had not seen."""

    correct: int
    sessions: int

    @property
    def accuracy(self) -> float:
        """Part of the held-out sessions that it got right."""
        return self.correct / self.sessions

    @property
    def p_value(self) -> float:
        """Exact: the probability that guessing is right as often."""
        return float(stats.binom.sf(self.correct - 1, self.sessions, 0.5))

    @property
    def upper_accuracy(self) -> float:
        """This classifier's true accuracy is below, with 99 % confidence (C. J. Clopper and E. S. Pearson 1934)."""
        return (
            1.0 if self.correct == self.sessions else float(stats.beta.ppf(0.99, self.correct + 1, self.sessions - self.correct))
        )


def needed_accuracy(sessions: int, level: float) -> float:
    """The accuracy on so many held-out sessions from which a test at this level rejects; above 1: no accuracy would do."""
    correct = next((k for k in range(sessions + 1) if stats.binom.sf(k - 1, sessions, 0.5) <= level), sessions + 1)
    return correct / sessions


def features(words: NDArray[np.int64]) -> Floats:
    """Features of one item of many sessions: [session, word] -> [session, feature]."""
    sessions = len(words)
    planes = np.ascontiguousarray(words).view(np.uint8).reshape(sessions, -1, WORD_BYTES)
    nibbles = (planes & 15).astype(np.int64) + 16 * np.arange(WORD_BYTES) + 128 * np.arange(sessions)[:, None, None]
    histograms = np.bincount(nibbles.ravel(), minlength=128 * sessions).reshape(sessions, 128)
    reals = words.astype(np.float64) * 2.0**-63
    centred = reals - reals.mean(axis=1, keepdims=True)
    pairs = max(words.shape[1] - 1, 1)
    low_order = [
        reals.mean(axis=1),
        reals.var(axis=1),
        np.log2(np.abs(reals) + 2.0**-64).mean(axis=1),
        (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / pairs,
    ]
    return np.concatenate([histograms, planes.mean(axis=1), np.stack(low_order, axis=1)], axis=1)


def judge(samples: Floats, labels: NDArray[np.bool_]) -> Verdict:
    """Learn on the first half of the sessions, answer for the second."""
    half = len(labels) // 2
    mean, deviation = samples[:half].mean(axis=0), samples[:half].std(axis=0)
    scaled = np.where(deviation > 0, (samples - mean) / np.where(deviation > 0, deviation, 1.0), 0.0)
    weights, bias = train(scaled[:half], labels[:half])
    answers = scaled[half:] @ weights + bias > 0
    return Verdict(int((answers == labels[half:]).sum()), len(labels) - half)


def train(samples: Floats, labels: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Logistic regression by gradient descent; the step is one over the curvature's bound."""
    count, size = samples.shape
    weights, bias = np.zeros(size), 0.0
    step = 1.0 / (0.25 * (np.square(samples).sum() / count + 1.0) + RIDGE)
    for _ in range(STEPS):
        surprise = 1.0 / (1.0 + np.exp(-np.clip(samples @ weights + bias, -30.0, 30.0))) - labels
        weights -= step * (samples.T @ surprise / count + RIDGE / count * weights)
        bias -= step * float(surprise.mean())
    return weights, bias
