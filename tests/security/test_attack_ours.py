"""The alarm level of a rebuilt image: a uniform guess stays below it, the image itself does not."""

import torch

from protocols.fixed_point import encode
from protocols.identifiers import Role
from protocols.prg import Prg
from security.attack_ours import FAILURE, alarm_level, deviation, edge_refuses

TRUTH = torch.linspace(0, 1, 32 * 32, dtype=torch.float64).view(32, 32)
UNIFORM = Prg(bytes(32))


def test_uniform_guesses_stay_below_the_alarm_level_and_the_truth_does_not() -> None:
    guesses = [UNIFORM.words(label, 0, (32, 32)) for label in range(50)]
    assert max(deviation(guess, TRUTH) for guess in guesses) < alarm_level(len(guesses))
    # as large in the ring as a uniform guess is
    assert deviation(encode(TRUTH - 0.5) << 46, TRUTH) > alarm_level(1)


def test_deviations_of_uniform_guesses_have_unit_variance() -> None:
    squares = [deviation(UNIFORM.words(label, 1, (32, 32)), TRUTH) ** 2 for label in range(400)]
    assert 0.7 < sum(squares) / len(squares) < 1.4  # 5 standard deviations of a mean of 400


def test_the_edge_refuses_a_failed_truncation_and_takes_an_honest_result() -> None:
    share = UNIFORM.words(0, 2, (1, 32, 32))
    shares = {Role.A: share, Role.B: encode(TRUTH)[None] - share}
    assert not edge_refuses(shares)
    shares[Role.A] = share.clone()
    shares[Role.A][0, 3, 4] += FAILURE
    assert edge_refuses(shares)
