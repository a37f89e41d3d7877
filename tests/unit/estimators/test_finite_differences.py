"""Two-sided and one-sided slopes on a quadratic, where both have closed forms."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.estimators import OneSided, TwoSided
from toys import Quadratic

ESTIMATORS = [TwoSided, OneSided]


class QuadraticProbe:
    """The losses of a quadratic around its weights, along given directions; counts the evaluations."""

    def __init__(self, num_directions: int, step: int = 0) -> None:
        self.step = step
        self.model = Quadratic({"w": (3, 4), "b": (3,)})
        self.theta = self.model.flat().detach()
        self.z = torch.randn(
            num_directions, len(self.theta), generator=torch.Generator().manual_seed(3), dtype=torch.float64
        )
        self.num_evaluations = 0

    def loss(self, *shifts: tuple[int, float]) -> float:
        self.num_evaluations += 1
        theta = self.theta.clone()
        for query, coefficient in shifts:
            theta += coefficient * self.z[query]
        return float(self.value(theta))

    def losses(self, shifts: Sequence[Sequence[tuple[int, float]]]) -> list[float]:
        return [self.loss(*pairs) for pairs in shifts]

    def value(self, theta: Tensor) -> Tensor:
        difference = theta - self.model.target
        return 0.5 * difference @ self.model.hessian @ difference

    @property
    def slopes(self) -> Tensor:
        return self.z @ self.model.gradient()

    @property
    def curvatures(self) -> Tensor:
        return torch.einsum("qi,ij,qj->q", self.z, self.model.hessian, self.z)


@pytest.mark.parametrize("zo_eps", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("num_directions", [1, 3])
def test_two_sided_is_exact_on_a_quadratic(zo_eps: float, num_directions: int) -> None:
    """z^T gradient to round-off for any zo_eps; the differences cancel to about 1e-15 / zo_eps."""
    probe = QuadraticProbe(num_directions)
    estimate = TwoSided(zo_eps=zo_eps, num_directions=num_directions).estimate(probe)
    tolerance = 1e-13 / min(zo_eps, 1.0)
    torch.testing.assert_close(
        torch.tensor(estimate.scalars, dtype=torch.float64), probe.slopes, rtol=1e-12, atol=tolerance
    )


@pytest.mark.parametrize("zo_eps", [1e-3, 0.1, 1.0])
def test_one_sided_is_off_by_half_zo_eps_times_the_curvature(zo_eps: float) -> None:
    probe = QuadraticProbe(3)
    estimate = OneSided(zo_eps=zo_eps, num_directions=3).estimate(probe)
    expected = probe.slopes + zo_eps / 2 * probe.curvatures
    torch.testing.assert_close(
        torch.tensor(estimate.scalars, dtype=torch.float64), expected, rtol=1e-12, atol=1e-13 / zo_eps
    )


def test_the_logged_losses() -> None:
    """Two-sided: the mean of all losses, f + zo_eps^2/2 mean z^T A z; one-sided: the clean loss itself."""
    probe = QuadraticProbe(3)
    clean = float(probe.value(probe.theta))
    two_sided = TwoSided(zo_eps=0.1, num_directions=3).estimate(probe)
    assert two_sided.loss == pytest.approx(clean + 0.005 * float(probe.curvatures.mean()), rel=1e-12)
    assert OneSided(zo_eps=0.1, num_directions=3).estimate(probe).loss == clean


@pytest.mark.parametrize("num_directions", [1, 4])
def test_number_of_evaluations(num_directions: int) -> None:
    """Two-sided 2 q; one-sided q + 1, the clean loss being shared."""
    for estimator, expected in (
        (TwoSided(num_directions=num_directions), 2 * num_directions),
        (OneSided(num_directions=num_directions), num_directions + 1),
    ):
        probe = QuadraticProbe(num_directions)
        estimator.estimate(probe)
        assert probe.num_evaluations == expected == estimator.num_forwards


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weights_average_over_directions(estimator: type) -> None:
    assert estimator(num_directions=4).weights((1.0, -2.0, 0.0, 8.0)) == (0.25, -0.5, 0.0, 2.0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("zo_eps", [0.0, -1e-3, float("nan"), float("inf")])
def test_zo_eps_out_of_range_is_named(estimator: type, zo_eps: float) -> None:
    with pytest.raises(UsageError, match=f"zo_eps must be positive and finite, got {zo_eps}"):
        estimator(zo_eps=zo_eps)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_direction_is_refused(estimator: type) -> None:
    with pytest.raises(UsageError, match="num_directions must be at least 1, got 0"):
        estimator(num_directions=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_ramp(estimator: type) -> None:
    """max(1, floor(n t / T)) directions at step t < T, n afterwards; the weights follow what was measured."""
    ramp = estimator(num_directions=6, ramp_steps=12)
    counts = []
    for step in range(14):
        scalars = ramp.estimate(QuadraticProbe(6, step)).scalars
        counts.append(len(scalars))
        assert ramp.weights(scalars) == tuple(g / len(scalars) for g in scalars)
    assert counts == [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_negative_ramp_is_named(estimator: type) -> None:
    with pytest.raises(UsageError, match="ramp_steps must be 0 or more, got -1"):
        estimator(ramp_steps=-1)
