"""Descent along the sign of the estimate."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.types import AbstractUpdate, Change, Combination, Trainable, UpdateContext
from foretune.updates.decay import check_weight_decay, decay_factor


@dataclass(frozen=True, kw_only=True)
class Sign(AbstractUpdate):
    """theta <- (1 - lr * weight_decay) theta - lr * lift(sign(estimate)), entry by entry; sign(0) = 0.

    Every coordinate moves by exactly lr, whatever the loss's unit. No state; the estimate of one tensor at a time
    is a temporary, since the sign of a sum needs the sum.

    Args:
        weight_decay: Applied to matrices only, decoupled.
    References:
        Liu et al. 2019, signSGD via Zeroth-Order Oracle; Zhang et al. 2024, arXiv:2402.11592 (ZO-SGD-Sign).
    """

    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)

    def apply(self, context: UpdateContext) -> Change:
        """Return the change; there is no state to advance."""
        step = Combination(dense=(-context.lr, context.gradient().sign_()))
        return Change(decay_factor(context, self.weight_decay), step)

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """None."""
        return 0
