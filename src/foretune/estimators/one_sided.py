"""Forward differences with one shared clean loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from foretune.estimators.checks import check_finite_difference
from foretune.estimators.ramp import check_ramp, directions_at
from foretune.estimators.weighting import Weighting, check_weighting, slope_weights
from foretune.types import AbstractEstimator, Estimate, Probe


@dataclass(frozen=True, kw_only=True)
class OneSided(AbstractEstimator):
    """Slope of the loss along each direction from one forward, and one forward that all share.

        projected_grad_k = (L(theta + zo_eps z_k) - L(theta)) / zo_eps

    On a quadratic with Hessian A it differs from the true slope by exactly ``zo_eps/2 z^T A z``. ``q + 1``
    forwards for q directions, no state. The logged loss is the clean one.

    Args:
        zo_eps: Perturbation scale, in units of theta.
        num_directions: Directions per step (q).
        weighting: How slopes become weights of directions: their mean, sum, sign, or normalized by their spread
            (`slope_weights`).
        ramp_steps: Steps over which the number of directions grows linearly from 1 to `num_directions`; 0 for all
            of them from the start.
    Raises:
        UsageError: a setting out of range.
    References:
        Malladi et al. 2023, arXiv:2305.17333, appendix B (one-sided form).
        Differs from the published code: the clean loss is evaluated once for all directions.
    """

    measures_clean_loss: ClassVar[bool] = True

    zo_eps: float = 1e-3
    num_directions: int = 1
    weighting: Weighting = "mean"
    ramp_steps: int = 0

    def __post_init__(self) -> None:
        check_finite_difference(self.zo_eps, self.num_directions)
        check_ramp(self.ramp_steps)
        check_weighting(self.weighting, self.num_directions, self.ramp_steps)

    @property
    def num_forwards(self) -> int:
        """``num_directions + 1``."""
        return self.num_directions + 1

    def num_forwards_at(self, step: int) -> int:
        """``num_directions + 1``, of those that the step measures."""
        return directions_at(step, self.num_directions, self.ramp_steps) + 1

    def estimate(self, probe: Probe) -> Estimate:
        """Return the projected gradient of each direction that the step measures, float64."""
        queries = range(directions_at(probe.step, self.num_directions, self.ramp_steps))
        loss_clean, *losses = probe.losses([[], *([(query, self.zo_eps)] for query in queries)])
        return Estimate(tuple((loss - loss_clean) / self.zo_eps for loss in losses), loss=loss_clean)

    def weights(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """Return what the weighting makes of the slopes."""
        return slope_weights(scalars, self.weighting, zo_eps=self.zo_eps)
