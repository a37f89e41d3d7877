"""Slope and curvature from three losses, on a quadratic where both have closed forms."""

from collections.abc import Sequence

import pytest
import torch

from foretune.errors import UsageError
from foretune.estimators import SecondDifference, TwoSided
from toys import Quadratic


class Line:
    """The losses of a quadratic along one direction; notes at which coefficients they were asked for."""

    step = 0

    def __init__(self) -> None:
        self.model = Quadratic({"w": (3, 4), "b": (3,)})
        self.z = torch.randn(15, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.asked: list[float] = []

    def loss(self, *shifts: tuple[int, float]) -> float:
        assert all(query == 0 for query, _ in shifts)
        coefficient = sum(coefficient for _, coefficient in shifts)
        self.asked.append(coefficient)
        difference = self.model.flat().detach() + coefficient * self.z - self.model.target
        return float(0.5 * difference @ self.model.hessian @ difference)

    def losses(self, shifts: Sequence[Sequence[tuple[int, float]]]) -> list[float]:
        return [self.loss(*pairs) for pairs in shifts]

    def slope(self, query: int) -> tuple[float, float]:
        raise AssertionError("no exact slope is needed")


@pytest.mark.parametrize("zo_eps", [1e-2, 1.0, 30.0])
def test_both_are_exact_on_a_quadratic_for_any_zo_eps(zo_eps: float) -> None:
    """loss_plus + loss_minus - 2 loss_clean = zo_eps^2 z^T A z; the slope is that of two sides."""
    line = Line()
    slope, curvature = SecondDifference(zo_eps=zo_eps).estimate(line).scalars
    assert slope == pytest.approx(float(line.z @ line.model.gradient()), rel=1e-10)
    assert curvature == pytest.approx(float(line.z @ line.model.hessian @ line.z), rel=1e-8)
    assert (slope,) == TwoSided(zo_eps=zo_eps).estimate(line).scalars


def test_three_forwards_one_of_them_clean_and_logged() -> None:
    line, estimator = Line(), SecondDifference(zo_eps=0.1)
    estimate = estimator.estimate(line)
    assert sorted(line.asked) == [-0.1, 0.0, 0.1]
    assert estimator.num_forwards == 3
    assert estimate.loss == line.model().item()


def test_the_estimate_follows_the_slope_alone() -> None:
    estimator = SecondDifference()
    assert estimator.weights((2.0, 7.0)) == estimator.projected_grads((2.0, 7.0)) == (2.0,)
    assert estimator.num_directions == 1
    assert estimator.measures_curvature
    assert not TwoSided.measures_curvature


def test_zo_eps_out_of_range_is_named() -> None:
    with pytest.raises(UsageError, match="zo_eps must be positive and finite, got 0"):
        SecondDifference(zo_eps=0.0)
