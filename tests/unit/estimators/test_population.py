"""Shaped scores: what they are, what they do not depend on, when there is no step."""

import math
from collections.abc import Sequence

import pytest
import torch

from foretune.errors import UsageError
from foretune.estimators import Population
from foretune.types import Estimate

LOSSES = (3.0, 1.0, 2.0, 6.0)


class Recorder:
    """Answers every shift with the next loss."""

    step = 0

    def __init__(self, *losses: float) -> None:
        self.answers = losses
        self.shifts: list[tuple[tuple[int, float], ...]] = []

    def loss(self, *shifts: tuple[int, float]) -> float:
        self.shifts.append(shifts)
        return self.answers[len(self.shifts) - 1]

    def losses(self, shifts: Sequence[Sequence[tuple[int, float]]]) -> list[float]:
        return [self.loss(*pairs) for pairs in shifts]


def scores() -> torch.Tensor:
    losses = torch.tensor(LOSSES, dtype=torch.float64)
    return (losses - losses.mean()) / losses.std(correction=0)


def test_one_member_for_each_direction() -> None:
    population = Population(zo_eps=0.1, num_directions=4)
    probe = Recorder(*LOSSES)
    assert population.estimate(probe) == Estimate(scalars=LOSSES, loss=3.0)
    assert probe.shifts == [((query, 0.1),) for query in range(4)]
    assert population.num_forwards == 4
    assert population.weights(LOSSES) == pytest.approx((scores() / 4).tolist(), rel=1e-14)


def test_antithetic_pairs() -> None:
    population = Population(zo_eps=0.1, num_directions=2, antithetic=True)
    probe = Recorder(*LOSSES)
    assert population.estimate(probe) == Estimate(scalars=LOSSES, loss=3.0)
    assert probe.shifts == [((0, 0.1),), ((0, -0.1),), ((1, 0.1),), ((1, -0.1),)]
    assert population.num_forwards == 4
    z = scores()
    assert population.weights(LOSSES) == pytest.approx(((z[::2] - z[1::2]) / 4).tolist(), rel=1e-14)


def test_root_of_the_population() -> None:
    plain = Population(num_directions=4).weights(LOSSES)
    assert Population(num_directions=4, sqrt_population=True).weights(LOSSES) == pytest.approx(
        [math.sqrt(4) * weight for weight in plain], rel=1e-14
    )


@pytest.mark.parametrize("antithetic", [False, True])
def test_an_affine_change_of_the_loss_changes_nothing(antithetic: bool) -> None:
    population = Population(num_directions=2 if antithetic else 4, antithetic=antithetic)
    expected = population.weights(LOSSES)
    for scale, offset in ((1e4, 0.0), (1e-4, 0.0), (1.0, 100.0), (3.0, -5.0)):
        assert population.weights(tuple(scale * loss + offset for loss in LOSSES)) == pytest.approx(expected, rel=1e-9)


def test_members_that_do_equally_well_make_no_step() -> None:
    assert Population(num_directions=3).weights((5.0, 5.0, 5.0)) == (0.0, 0.0, 0.0)
    assert Population(num_directions=3).weights((5.0, 5.0, 5.0 + 1e-13)) == (0.0, 0.0, 0.0)
    assert Population(num_directions=2, antithetic=True).weights((0.0, 0.0, 0.0, 0.0)) == (0.0, 0.0)


def test_scores_are_no_slopes() -> None:
    assert Population().projected_grads(LOSSES) == ()


def test_settings_out_of_range() -> None:
    with pytest.raises(UsageError, match="at least 2 members, got num_directions 1 with antithetic=False"):
        Population(num_directions=1)
    assert Population(num_directions=1, antithetic=True).weights((2.0, 1.0)) == (1.0,)
    with pytest.raises(UsageError, match=r"zo_eps must be positive and finite, got 0\.0"):
        Population(zo_eps=0.0)
