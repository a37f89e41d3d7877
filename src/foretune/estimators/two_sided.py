"""Central differences (SPSA)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from foretune.estimators.checks import check_finite_difference
from foretune.estimators.ramp import check_ramp, directions_at
from foretune.estimators.weighting import Weighting, check_weighting, slope_weights
from foretune.types import AbstractEstimator, Estimate, Probe


@dataclass(frozen=True, kw_only=True)
class TwoSided(AbstractEstimator):
    """Slope of the loss along each direction from two forwards.

        projected_grad_k = (L(theta + zo_eps z_k) - L(theta - zo_eps z_k)) / (2 zo_eps)

    Exact on a quadratic for any zo_eps, otherwise biased by O(zo_eps^2). Two forwards per direction, all at the
    same weights and data; no state. The logged loss is the mean of the 2 q losses.

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
        Malladi et al. 2023, arXiv:2305.17333, Definition 1 and Algorithms 1 and 2.
    """

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
        """``2 * num_directions``."""
        return 2 * self.num_directions

    def num_forwards_at(self, step: int) -> int:
        """``2 * num_directions``, of those that the step measures."""
        return 2 * directions_at(step, self.num_directions, self.ramp_steps)

    def estimate(self, probe: Probe) -> Estimate:
        """Return the projected gradient of each direction that the step measures, float64."""
        queries = range(directions_at(probe.step, self.num_directions, self.ramp_steps))
        losses = probe.losses([[(query, side)] for query in queries for side in (self.zo_eps, -self.zo_eps)])
        pairs = zip(losses[::2], losses[1::2], strict=True)
        return Estimate(tuple((plus - minus) / (2 * self.zo_eps) for plus, minus in pairs), loss=fmean(losses))

    def weights(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """Return what the weighting makes of the slopes."""
        return slope_weights(scalars, self.weighting, zo_eps=self.zo_eps)
