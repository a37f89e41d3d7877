"""Exact slopes: no scale, one pass a direction, the clean loss."""

import pytest

from foretune.errors import UsageError
from foretune.estimators import ForwardMode


class Slopes:
    """Answers with given slopes, in order of the queries."""

    step = 0

    def __init__(self, *slopes: float) -> None:
        self.slopes = slopes
        self.asked: list[int] = []

    def loss(self, *shifts: tuple[int, float]) -> float:
        raise AssertionError("no weight is shifted")

    def slope(self, query: int) -> tuple[float, float]:
        self.asked.append(query)
        return 0.75, self.slopes[query]


def test_one_pass_a_direction() -> None:
    estimator, probe = ForwardMode(num_directions=3), Slopes(2.0, -1.0, 0.5)
    found = estimator.estimate(probe)
    assert (found.scalars, found.loss) == ((2.0, -1.0, 0.5), 0.75)
    assert probe.asked == [0, 1, 2]
    assert estimator.num_forwards == 3
    assert estimator.weights((3.0, -6.0, 0.0)) == (1.0, -2.0, 0.0)
    assert estimator.zo_eps == 0.0


def test_no_direction_is_refused() -> None:
    with pytest.raises(UsageError, match="num_directions must be at least 1, got 0"):
        ForwardMode(num_directions=0)
