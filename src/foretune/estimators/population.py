"""Scores of a population, shaped to zero mean and unit variance (evolution strategies)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pstdev

from foretune.errors import UsageError
from foretune.estimators.checks import check_finite_difference
from foretune.estimators.weighting import MIN_LOSS_STD
from foretune.types import AbstractEstimator, Estimate, Probe


@dataclass(frozen=True, kw_only=True)
class Population(AbstractEstimator):
    """Weights of directions from the losses of N members, each theta moved along one of them.

        L_i = L(theta + zo_eps z_i),      score_i = (L_i - mean(L)) / std(L)
        estimate = (1/N) sum_i score_i z_i        antithetic: N = 2 q members, z_i and -z_i in turn

    Only how the members compare counts: an affine change of the loss changes nothing, and 1 / zo_eps is part of
    the learning rate. No step where the population's std is below `MIN_LOSS_STD`. N forwards, no state, no clean
    loss; the logged one is the members' mean.

    Args:
        zo_eps: Perturbation scale (sigma), in units of theta.
        num_directions: Directions per step (q): N without pairs, N / 2 with them.
        antithetic: Measure every direction with both signs.
        sqrt_population: Multiply the estimate by sqrt(N), which makes the length of a step that only chance
            decides independent of N.
    Raises:
        UsageError: a setting out of range, or fewer than two members.
    References:
        Qiu et al. 2025, arXiv:2509.24372; Sarkar et al. 2025, arXiv:2511.16652 (`antithetic`, `sqrt_population`).
    """

    zo_eps: float = 1e-3
    num_directions: int = 30
    antithetic: bool = False
    sqrt_population: bool = False

    def __post_init__(self) -> None:
        check_finite_difference(self.zo_eps, self.num_directions)
        if self.num_forwards < 2:
            raise UsageError("A population needs at least 2 members, got num_directions 1 with antithetic=False.")

    @property
    def num_forwards(self) -> int:
        """The number of members."""
        return self.num_directions * (2 if self.antithetic else 1)

    def estimate(self, probe: Probe) -> Estimate:
        """Return the loss of each member, float64; of a pair, that with the plus sign first."""
        signs = (1.0, -1.0) if self.antithetic else (1.0,)
        losses = probe.losses([[(query, sign * self.zo_eps)] for query in range(self.num_directions) for sign in signs])
        return Estimate(scalars=tuple(losses), loss=fmean(losses))

    def weights(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """Return the scores over N, those of a pair taken together."""
        std = pstdev(scalars)
        if std < MIN_LOSS_STD:
            return (0.0,) * self.num_directions
        center, num_members = fmean(scalars), len(scalars)
        unit = std * (math.sqrt(num_members) if self.sqrt_population else num_members)
        shares = [(loss - center) / unit for loss in scalars]
        if not self.antithetic:
            return tuple(shares)
        return tuple(plus - minus for plus, minus in zip(shares[::2], shares[1::2], strict=True))

    def projected_grads(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """None: scores are no slopes."""
        return ()
