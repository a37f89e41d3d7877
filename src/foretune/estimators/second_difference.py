"""Central differences with the clean loss: slope and curvature along one direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from foretune.estimators.checks import check_finite_difference
from foretune.types import AbstractEstimator, Estimate, Probe


@dataclass(frozen=True, kw_only=True)
class SecondDifference(AbstractEstimator):
    """First and second derivative of the loss along one direction, from three forwards.

        projected_grad = (L(theta + zo_eps z) - L(theta - zo_eps z)) / (2 zo_eps)
        curvature      = (L(theta + zo_eps z) + L(theta - zo_eps z) - 2 L(theta)) / zo_eps^2

    Both exact on a quadratic for any zo_eps (the curvature is then z^T A z). What rounding leaves of the losses is
    divided by zo_eps^2 in the curvature: it is noise where zo_eps is small. No state. The logged loss is the clean
    one.

    Args:
        zo_eps: Perturbation scale, in units of theta.
    Raises:
        UsageError: zo_eps not positive.
    References:
        Zhao et al. 2024, arXiv:2402.15173, Algorithm 1.
    """

    measures_clean_loss: ClassVar[bool] = True
    measures_curvature: ClassVar[bool] = True

    zo_eps: float = 1e-3

    def __post_init__(self) -> None:
        check_finite_difference(self.zo_eps, self.num_directions)

    @property
    def num_directions(self) -> int:
        """1."""
        return 1

    @property
    def num_forwards(self) -> int:
        """3."""
        return 3

    def estimate(self, probe: Probe) -> Estimate:
        """Return the projected gradient and the curvature, float64."""
        loss_clean, loss_plus, loss_minus = probe.losses([[], [(0, self.zo_eps)], [(0, -self.zo_eps)]])
        slope = (loss_plus - loss_minus) / (2 * self.zo_eps)
        curvature = (loss_plus + loss_minus - 2 * loss_clean) / self.zo_eps**2
        return Estimate(scalars=(slope, curvature), loss=loss_clean)

    def weights(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """The projected gradient."""
        return scalars[:1]

    def projected_grads(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """The first of the two."""
        return scalars[:1]
