"""Central differences (SPSA)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from foretune.estimators.checks import check_finite_difference
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
    Raises:
        UsageError: zo_eps not positive, or no direction.
    References:
        Malladi et al. 2023, arXiv:2305.17333, Definition 1 and Algorithms 1 and 2.
    """

    zo_eps: float = 1e-3
    num_directions: int = 1

    def __post_init__(self) -> None:
        check_finite_difference(self.zo_eps, self.num_directions)

    @property
    def num_forwards(self) -> int:
        """``2 * num_directions``."""
        return 2 * self.num_directions

    def estimate(self, probe: Probe) -> Estimate:
        """Return the projected gradient of each direction, float64, shape (num_directions,)."""
        slopes, losses = [], []
        for query in range(self.num_directions):
            loss_plus = probe.loss((query, self.zo_eps))
            loss_minus = probe.loss((query, -self.zo_eps))
            slopes.append((loss_plus - loss_minus) / (2 * self.zo_eps))
            losses += [loss_plus, loss_minus]
        return Estimate(scalars=tuple(slopes), loss=fmean(losses))

    def weights(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """``projected_grad_k / num_directions``."""
        return tuple(slope / self.num_directions for slope in scalars)
