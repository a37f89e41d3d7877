"""Which of three candidates is kept: by the smallest loss, ties in a fixed order."""

import itertools
import math

import pytest

from foretune.directions import HessianScaled
from foretune.errors import IncompatibleError
from foretune.estimators import SecondDifference
from foretune.optimizer import Optimizer
from foretune.updates import Conservative
from toys import Quadratic, trainables_of


class Script:
    """Losses at theta, theta - lr e and theta + lr e."""

    def __init__(self, *losses: float) -> None:
        self.losses = dict(zip((0.0, 1.0, -1.0), losses, strict=True))
        self.asked: list[float] = []

    def loss(self, factor: float) -> float:
        self.asked.append(factor)
        return self.losses[factor]


@pytest.mark.parametrize("losses", list(itertools.product((1.0, 2.0, 3.0), repeat=3)))
def test_the_smallest_loss_wins_and_the_first_of_equals(losses: tuple[float, ...]) -> None:
    expected = (0.0, 1.0, -1.0)[losses.index(min(losses))]
    assert Conservative().decide(Script(*losses)) == (expected,)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((math.nan, 1.0, 1.0), 0.0),
        ((1.0, math.nan, 0.5), -1.0),
        ((1.0, math.nan, math.inf), 0.0),
        ((math.inf, 2.0, math.nan), 1.0),
    ],
)
def test_losses_that_are_not_finite(losses: tuple[float, ...], expected: float) -> None:
    assert Conservative().decide(Script(*losses)) == (expected,)


def test_directions_that_change_after_the_trials_are_refused_by_name() -> None:
    """The loss would be tried along one direction, and the step made along another."""
    parts = {"estimator": SecondDifference(), "update": Conservative(), "lr": 0.1}
    Optimizer(Quadratic({"a": (2,)}), direction=HessianScaled(), **parts)
    with pytest.raises(IncompatibleError, match="Conservative cannot be combined with this HessianScaled"):
        Optimizer(Quadratic({"a": (2,)}), direction=HessianScaled(precond="new"), **parts)


def test_costs() -> None:
    script = Script(1.0, 2.0, 3.0)
    update = Conservative()
    assert len(update.decide(script)) == update.num_decisions == 1
    assert len(script.asked) == update.num_trials == 3
    (trainable,) = trainables_of(w=(3, 4))
    assert update.num_state_elements(trainable, (3, 4)) == 0
