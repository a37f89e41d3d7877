"""Exact slopes by forward-mode differentiation."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.estimators.checks import check_num_directions
from foretune.types import AbstractEstimator, Estimate, Probe


@dataclass(frozen=True, kw_only=True)
class ForwardMode(AbstractEstimator):
    """Slope of the loss along each direction from one forward that carries derivatives along.

        projected_grad_k = <gradient, z_k>

    No perturbation, so no bias, on any loss. One pass per direction, at about the cost of three forwards and with
    twice their activations; nothing is stored for a backward pass. The closure must return a differentiable tensor. The
    logged loss is the clean one.

    Args:
        num_directions: Directions per step (q).
    Raises:
        UsageError: no direction.
    References:
        Baydin et al. 2022, arXiv:2202.08587, Definition 1.
    """

    num_directions: int = 1

    def __post_init__(self) -> None:
        check_num_directions(self.num_directions)

    @property
    def zo_eps(self) -> float:
        """0: the weights are not perturbed."""
        return 0.0

    @property
    def num_forwards(self) -> int:
        """``num_directions``, each with derivatives."""
        return self.num_directions

    def estimate(self, probe: Probe) -> Estimate:
        """Return the projected gradient of each direction, float64, shape (num_directions,)."""
        losses, slopes = zip(*map(probe.slope, range(self.num_directions)), strict=True)
        return Estimate(scalars=slopes, loss=losses[0])

    def weights(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """``projected_grad_k / num_directions``."""
        return tuple(slope / self.num_directions for slope in scalars)
