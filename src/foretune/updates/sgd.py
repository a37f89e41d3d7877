"""Plain descent along the estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import IncompatibleError, UsageError
from foretune.types import AbstractUpdate, Change, Parts, Trainable, Trial, UpdateContext
from foretune.updates.decay import check_weight_decay, decay_factor


@dataclass(frozen=True, kw_only=True)
class SGD(AbstractUpdate):
    """theta <- theta - lr * (c * estimate + weight_decay * theta), for any number of directions in one pass.

        c = min(1, max_grad_norm / ||lift(estimate)||)  over all tensors of a block,  1 without max_grad_norm

    No state and no gradient buffer: the directions are regenerated while they are added. Decay uses the weights
    before the step; with this rule coupled and decoupled decay are the same thing. Clipping regenerates them once
    more, one tensor at a time, and c goes to the journal.

    Args:
        weight_decay: Applied to matrices only (no biases, no norm weights).
        max_grad_norm: Norm to which longer estimates are scaled; 0 for no clipping.
    Raises:
        UsageError: a setting below 0 or not finite.
    References:
        Malladi et al. 2023, arXiv:2305.17333, Algorithms 1 and 2. Clipping: their code for medium-sized models
        (zero_order_clip_grad), which stores the estimate for it.
    """

    weight_decay: float = 0.0
    max_grad_norm: float = 0.0

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)
        if not (self.max_grad_norm >= 0 and math.isfinite(self.max_grad_norm)):
            raise UsageError(f"max_grad_norm must be 0 or more and finite, got {self.max_grad_norm}.")

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse to clip steps along directions that are not those that were measured."""
        if self.num_decisions and parts.direction.advances_first:
            raise IncompatibleError(
                f"max_grad_norm cannot be combined with this {type(parts.direction).__name__}: the step follows a "
                "direction that is known only after the norm was taken. Use max_grad_norm=0."
            )

    @property
    def num_decisions(self) -> int:
        """The factor c, where estimates are clipped."""
        return 1 if self.max_grad_norm > 0 else 0

    def decide(self, trial: Trial) -> tuple[float, ...]:
        """Return the factor c."""
        length = trial.norm()
        return (self.max_grad_norm / length if length > self.max_grad_norm else 1.0,)

    def apply(self, context: UpdateContext) -> Change:
        """Return the change; there is no state to advance."""
        (factor,) = context.decision or (1.0,)
        return Change(decay_factor(context, self.weight_decay), context.estimate.scaled(-factor * context.lr))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """None."""
        return 0
