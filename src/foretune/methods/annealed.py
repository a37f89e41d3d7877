"""What methods share whose directions remember (ZO-AdaMU and its descendants): the annealing, as their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from foretune.directions import MomentumGuided
from foretune.directions.annealing import annealing_times
from foretune.methods.base import AbstractMethod


@dataclass(frozen=True, kw_only=True)
class AbstractAnnealedMethod(AbstractMethod):
    """Settings of a method along `MomentumGuided` directions.

    Attributes:
        zo_eps: Perturbation scale.
        total_steps: Length of the run, for t1, t2 and t3; the command line and the trainer fill it in.
        t1, t2, t3: Ends of the warm-up, of the annealing, and of the run, in updates of a tensor.
        alpha_target, beta1_target: Variance of the fresh noise, and share of the fresh part in m, from t2 on.
        phi_alpha, phi_beta1: Shapes of the two descents.
    """

    zo_eps: float = 1e-3
    total_steps: int = 20_000
    t1: int | None = None
    t2: int | None = None
    t3: int | None = None
    alpha_target: float = 0.5
    beta1_target: float = 0.9
    phi_alpha: float = 1.0
    phi_beta1: float = 0.1

    def momentum_guided(self, **others: Any) -> MomentumGuided:
        """Return the directions, with further settings of theirs.

        Raises:
            UsageError: a setting out of range.
        """
        t1, t2, t3 = annealing_times(self.total_steps, self.t1, self.t2, self.t3)
        return MomentumGuided(
            t1=t1,
            t2=t2,
            t3=t3,
            alpha_target=self.alpha_target,
            beta1_target=self.beta1_target,
            phi_alpha=self.phi_alpha,
            phi_beta1=self.phi_beta1,
            **others,
        )
